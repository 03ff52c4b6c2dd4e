"""The processes of a site on this machine, which an experiment may kill and start again where they were."""

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from coinfer.site.operator import Operator, OperatorError

COINFER = (sys.executable, "-m", "coinfer")
PATIENCE_S = 180.0


class Node:
    """One process of `coinfer`.

    Args:
        command: what follows `coinfer`; `{port}` stands for its port, which stays the same when it starts again.
        ready: finds its address in what it prints.
        log: file of what it prints, one start after the other.
    """

    def __init__(self, command: Sequence[str], ready: str, log: Path):
        self.address = self.page = ""
        self.process: subprocess.Popen[bytes] | None = None
        self._command, self._ready, self._log = command, re.compile(ready), log

    def launch(self) -> None:
        """Start it, and do not wait."""
        self._begin = self._log.stat().st_size if self._log.exists() else 0
        port = self.address.rpartition(":")[2] or "0"
        command = [*COINFER, *(part.replace("{port}", port) for part in self._command)]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)

    def wait_ready(self) -> None:
        """Wait until it says that it is ready."""
        wait_until(lambda: self._ready.search(self.said()) or self.ended, f"{self._command[0]} is ready")
        found = self._ready.search(self.said())
        if not found:
            raise SystemExit(f"it ended at once: {self.said()[-500:]}")
        self.address, self.page = found[1], found[2] or ""

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        self.launch()
        self.wait_ready()

    @property
    def ended(self) -> bool:
        """Return true if it is not running."""
        return self.process is None or self.process.poll() is not None

    def said(self) -> str:
        """Return what it has printed since its last start."""
        return self._log.read_bytes()[self._begin :].decode(errors="replace")

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it with SIGTERM, and with SIGKILL if that is not enough."""
        if self.ended:
            return
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()


def controller_node(home: Path) -> Node:
    """Return a controller that keeps its state in a folder; it is not started."""
    store = ("--store", str(home / "experience.sqlite"))
    command = ("controller", "--port", "{port}", "--page-port", "0", *store)
    return Node(command, r"coinfer controller ready grpc=(\S+) page=(\S+)", home / "controller.log")


def edge_node(name: str, models: Sequence[str], slowdown: float, controller: str, home: Path, *more: str) -> Node:
    """Return an edge server of the site; it is not started."""
    site = ("--controller", controller, "--name", name, "--state", str(home / name))
    command = ("edge", *models, "--grpc-port", "{port}", "--http-port", "-1", "--slowdown", str(slowdown), *site)
    more = ("--until-eof", *more)  # it ends with this process, however that ends
    return Node((*command, *more), r"coinfer edge ready grpc=(\S+)(?: http=(\S+))?", home / f"{name}.log")


@contextlib.contextmanager
def running(*nodes: Node) -> Iterator[None]:
    """Start nodes, and stop them at the end."""
    try:
        for node in nodes:
            node.launch()
        for node in nodes:
            node.wait_ready()
        yield
    finally:
        for node in nodes:
            node.stop()


def there(operator: Operator, role: str) -> list[dict]:
    """Return the nodes of a role that hold their lease; none while the controller does not answer."""
    try:
        state = operator.state()
    except OperatorError:
        return []
    return [node for node in state["nodes"] if node["role"] == role and node["there"]]


def decide_by(operator: Operator, version: int, servers: int) -> None:
    """Let a version of the policy, or 0 for sequential greedy, decide on all servers, and wait until it does."""
    operator.policy("ChangePolicy", {"do": "pin", "version": version})
    wanted = [version] if version else []
    wait_until(
        lambda: [one["policies"] for one in there(operator, "edge")] == [wanted] * servers, f"version {version} decides"
    )


def wait_until(holds: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait for a condition; the experiment ends with an error if it does not come about."""
    until_s = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > until_s:
            raise SystemExit(f"not after {patience_s:.0f} s: {what}")
        time.sleep(0.02)

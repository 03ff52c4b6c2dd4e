"""Edge servers as a user starts them (`coinfer edge`), in processes that a test may kill, freeze and start again."""

import contextlib
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tests.patience import wait_until
from tritonclient.grpc import InferenceServerClient

from coinfer.runtime.device.device import Device
from coinfer.runtime.device.result import Result
from coinfer.types import Policy

READY = re.compile(r"^coinfer edge ready grpc=(\S+)(?: http=(\S+))? models=(\S+)$", re.MULTILINE)
START_S = 240.0
STOP_S = 240.0
COMMAND = str(Path(sys.executable).with_name("coinfer"))


class Edge:
    """One `coinfer edge`, which keeps its port from one start to the next."""

    def __init__(self, models: Sequence[str], *options: str):
        self._command = [COMMAND, "edge", *models, "--http-port", "-1", "--peers", "any", *options]
        self._log = tempfile.NamedTemporaryFile(prefix="coinfer-e2e-", suffix=".log")  # noqa: SIM115
        self.address = ""
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Starts it; `wait_ready` says when it serves."""
        self._log.truncate(0)
        self._log.seek(0)
        port = self.address.rpartition(":")[2] or "0"
        self.process = subprocess.Popen(
            [*self._command, "--grpc-port", port], stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )

    def wait_ready(self) -> None:
        assert self.process is not None
        wait_until(lambda: READY.search(self.log()) or not self.is_running, START_S, "an edge is ready")
        found = READY.search(self.log())
        assert found, f"the edge ended with {self.process.returncode}: {self.log()}"
        self.address = found[1]

    def log(self) -> str:
        return Path(self._log.name).read_text(encoding="utf-8", errors="replace")

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def terminate(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(STOP_S)

    def served(self) -> int:
        """Inferences that it computed since its start, as a stock client is told; warming up is none."""
        with contextlib.closing(InferenceServerClient(self.address)) as client:
            statistics = client.get_inference_statistics()
        return sum(model.inference_count for model in statistics.model_stats)  # pyright: ignore

    def stop(self) -> None:
        if self.is_running:
            self.thaw()
            self.kill()
        self._log.close()


@contextlib.contextmanager
def edges(models: Sequence[str], each: Sequence[Sequence[str]]) -> Iterator[list[Edge]]:
    """One edge for each list of options, all serving the same models."""
    with contextlib.ExitStack() as stack:
        started = [Edge(models, *options) for options in each]
        for edge in started:
            stack.callback(edge.stop)
            edge.launch()
        for edge in started:
            edge.wait_ready()
        yield started


def asked_there(device: Device, item: Any, address: str, policy: Policy | None = None) -> Result:
    """The answer of this server. It is asked again where it rested: on a busy machine it may miss its probes."""
    results: list[Result] = []
    wait_until(
        lambda: results.append(device.infer(item, policy=policy)) or results[-1].executed_on == address,
        START_S,
        address,
    )
    return results[-1]


def relative_error(found: np.ndarray, exact: np.ndarray) -> float:
    """Largest difference relative to the largest output."""
    assert found.shape == exact.shape
    return float(np.abs(found - exact).max() / np.abs(exact).max())

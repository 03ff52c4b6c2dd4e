"""Edge servers as processes of their own, on loopback."""

import contextlib
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from coinfer.errors import UserError

READY = re.compile(r"^coinfer edge ready grpc=(\S+)(?: http=(\S+))?", re.MULTILINE)
STOP_S = 10.0


class ClusterError(UserError):
    """An edge server that did not start; the message is one line for a person."""


@dataclass
class EdgeProcess:
    """A running `coinfer edge`."""

    address: str
    """`host:port` of gRPC."""
    http: str
    """`host:port` of REST."""
    slowdown: float
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def edges(
    model: str, slowdowns: Sequence[float], extra: Sequence[str] = (), timeout_s: float = 90.0
) -> Iterator[list[EdgeProcess]]:
    """Start one edge server for each slow-down factor, all at once, and stop them at the end.

    Args:
        model: name or file of the network, as for `coinfer edge`.
        slowdowns: of the servers, each at least 1.
        extra: further options of `coinfer edge`, for every server.
        timeout_s: longest wait until all are ready.

    Yields:
        The running servers, in the order of the slow-down factors.

    Raises:
        ClusterError: if one ends or is not ready in time; the message holds the last line that it wrote.
    """
    with contextlib.ExitStack() as stack:
        started = [_start(stack, model, slowdown, extra) for slowdown in slowdowns]
        running = []
        for (process, log), slowdown in zip(started, slowdowns, strict=True):
            grpc, http = _wait_ready(process, log, timeout_s)
            running.append(EdgeProcess(grpc, http, slowdown, process))
        yield running


def _start(
    stack: contextlib.ExitStack, model: str, slowdown: float, extra: Sequence[str]
) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="coinfer-edge-"))
    log = stack.enter_context((Path(folder) / "log").open("wb"))
    command = [sys.executable, "-m", "coinfer", "edge", model, "--grpc-port", "0", "--http-port", "0"]
    command += ["--slowdown", str(slowdown), "--until-eof", *extra]  # the pipe closes however this process ends
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.PIPE)
    stack.callback(_stop, process)
    return process, log


def _wait_ready(process: subprocess.Popen[bytes], log: IO[bytes], timeout_s: float) -> tuple[str, str]:
    for _ in range(int(timeout_s * 20)):
        output = Path(log.name).read_text(encoding="utf-8", errors="replace")
        if ready := READY.search(output):
            return ready[1], ready[2] or ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
            output = Path(log.name).read_text(encoding="utf-8", errors="replace")
            last = (output.strip().splitlines() or ["nothing"])[-1]
            raise ClusterError(f"an edge server ended with {process.returncode} before it was ready; it said: {last}")
    raise ClusterError(f"an edge server was not ready after {timeout_s:.0f} s; is the machine very busy?")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a process with SIGTERM, and with SIGKILL if that is not enough; a frozen process is woken first."""
    assert process.stdin is not None
    process.stdin.close()
    if process.poll() is not None:
        return
    if hasattr(signal, "SIGCONT"):
        process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

"""An edge server for one network, as a user starts it."""

import contextlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.runtime.edge.edge_process import edge_thread

from coinfer.errors import UserError
from coinfer.graph.ir import ModelGraph
from coinfer.runtime.edge.served_model import serve_graph
from coinfer.runtime.edge.service import EdgeService
from coinfer.runtime.executor import Executor

READY = re.compile(r"^coinfer edge ready grpc=(\S+)", re.MULTILINE)
START_S = 240.0
STOP_S = 60.0


@contextlib.contextmanager
def served(path: Path, options: Sequence[str]) -> Iterator[str]:
    """Start `coinfer edge` with a file, and stop it at the end.

    Yields:
        The server's address.

    Raises:
        UserError: with the server's last line, if it ends before it is ready.
    """
    command = [sys.executable, "-m", "coinfer", "edge", str(path), *options, "--grpc-port", "0", "--http-port", "-1"]
    with tempfile.TemporaryFile("a+b") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield _address(process, log)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            process.kill()
            process.wait()


@contextlib.contextmanager
def served_here(graph: ModelGraph) -> Iterator[str]:
    """Serve a network from a thread of this process, over gRPC all the same.

    Yields:
        The server's address.
    """
    with edge_thread(lambda: EdgeService([serve_graph(graph, Executor(graph))])) as edge:
        yield edge.grpc


def _address(process: subprocess.Popen[bytes], log) -> str:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s:
        is_over = process.poll() is not None
        log.seek(0)
        text = log.read().decode(errors="replace")
        if ready := READY.search(text):
            return ready[1]
        if is_over:
            raise UserError("the edge server ended: " + (text.strip().splitlines() or ["nothing said"])[-1])
        time.sleep(0.05)
    raise UserError(f"the edge server was not ready after {START_S:.0f} s")

"""Loads a model file in a process of its own with little memory and time, before this process touches it.

`validate` refuses what is known to be hostile; a file that makes a library crash, exhausts memory or runs for ever
ends only the child process.
"""

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType

import numpy as np

from coinfer.graph.ir import GraphError
from coinfer.graph.onnx.axes import Shapes
from coinfer.units import MIB

CPU_S = 20
MEMORY_BYTES = 1024 * MIB
MEMORY_PER_FILE_BYTE = 5
"""Weights lie in memory as read, as parsed, and rearranged for the executor."""
REFUSED = 3


def try_model(path: Path, shapes: Shapes = MappingProxyType({})) -> None:
    """Check that a file loads and runs once on zeros within the limits of time and memory.

    Args:
        path: of an ONNX file; files beside it whose names begin with its stem count as its weights.
        shapes: sizes of its free axes.

    Raises:
        GraphError: with the child's own message, or saying that it crashed, ran out of memory or out of time.
    """
    size_bytes = sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}*") if file.is_file())
    limit_bytes = MEMORY_BYTES + MEMORY_PER_FILE_BYTE * size_bytes
    command = [sys.executable, "-m", "coinfer.graph.onnx.sandbox", str(path), str(limit_bytes), str(CPU_S)]
    sizes = {name: size if isinstance(size, (int, str)) else list(size) for name, size in shapes.items()}
    command.append(json.dumps(sizes))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10 * CPU_S, check=False)
    except subprocess.TimeoutExpired:
        raise GraphError(
            f"{path}: run in a sandbox, it did not end within {10 * CPU_S} s; this file is not loaded"
        ) from None
    if done.returncode == REFUSED:
        raise GraphError(done.stdout.strip())
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise GraphError(
            f"{path}: run in a sandbox, it took more than {CPU_S} s of processor time; this file is not loaded"
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        raise GraphError(f"{path}: run in a sandbox, it crashed ({last}); this file is not loaded")


def _main(path: str, memory_bytes: str, cpu_s: str, shapes: str) -> int:
    resource.setrlimit(resource.RLIMIT_DATA, (int(memory_bytes), int(memory_bytes)))
    resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_s), int(cpu_s) + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from coinfer.graph.onnx.load import load
    from coinfer.graph.segment import segment
    from coinfer.graph.session import open_session

    try:
        graph = load(path, json.loads(shapes))
        session = open_session(graph, segment(graph, graph.inputs, graph.outputs))
    except GraphError as error:
        print(error)
        return REFUSED
    inputs = (graph.tensors[name] for name in graph.inputs)
    session.run(list(graph.outputs), {tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in inputs})
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))

"""Loads a model file in a process of its own with little memory and time, before this process touches it.

`validate` refuses what is known to be hostile; a file that makes a library crash, exhausts memory or runs for ever
ends only the child process. Memory and time follow from the sizes of the file, its tensors and its work; where the
operating system cannot limit them (Windows), only the end of a hanging trial is enforced.
"""

import glob
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import MappingProxyType

import numpy as np

from coinfer.errors import printable
from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx.axes import Shapes
from coinfer.graph.onnx.limits import DEFAULT_LIMITS, Limits, raise_it
from coinfer.units import BITS_PER_BYTE, MIB

try:
    import resource
except ImportError:  # not on Windows
    resource = None

LOAD_MIB = 1024
MEMORY_PER_FILE_BYTE = 6
"""Weights lie in memory as read, as parsed, and rearranged for the executor."""
START_S = 30
"""Processor time for opening a session and for operations that state no work."""
FLOP_PER_S = 5e8
"""Of a slow processor."""
_LIVE_COPIES = 4
"""Memory at work over the tensors that are needed at a time: executors rearrange them, and keep what they freed."""
_WALL_TIMES = 5
_OUT_OF_MEMORY = ("bad_alloc", "Failed to allocate", "MemoryError", "cannot allocate")
_OUT_OF_TIME, _KILLED = (-getattr(signal, name, 0) for name in ("SIGXCPU", "SIGKILL"))
REFUSED = 3
_passed: dict[Path, tuple[object, object]] = {}
"""Files that passed a trial in this process, as they were then: a network is read again after it left memory."""


def try_model(path: Path, shapes: Shapes = MappingProxyType({}), limits: Limits = DEFAULT_LIMITS) -> None:
    """Check that a file loads and runs once on zeros within the limits of time and memory.

    Args:
        path: of an ONNX file; files beside it whose names begin with its stem count as its weights.
        shapes: sizes of its free axes.
        limits: of what the file may take.

    Raises:
        GraphError: with the child's own message, or saying that it crashed, ran out of memory or out of time.
    """
    sizes = {name: size if isinstance(size, (int, str)) else list(size) for name, size in shapes.items()}
    command = [sys.executable, "-m", "coinfer.graph.onnx.sandbox", str(path)]
    command.append(json.dumps({"sizes": sizes, "limits": limits}))
    trial = (command[-1], file_identity(path))
    if _passed.get(path) == trial:
        return
    longer = raise_it("trial_s", 2 * limits.trial_s)
    too_slow = f"{path}: a trial run took more than {limits.trial_s} s of processor time; {longer}"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_WALL_TIMES * limits.trial_s + START_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise GraphError(too_slow) from None
    if done.returncode == REFUSED:
        raise GraphError(done.stdout.strip())
    if done.returncode and done.returncode == _OUT_OF_TIME:
        raise GraphError(too_slow)
    if done.returncode and done.returncode == _KILLED:
        raise GraphError(f"{path}: the system ended a trial run, mostly for want of memory; this file is not loaded")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        if any(word in last for word in _OUT_OF_MEMORY):
            raise GraphError(_too_large(path, limits.memory_mib))
        raise GraphError(f"{path}: run in a sandbox, it crashed ({last}); this file is not loaded")
    _passed[path] = trial


def file_identity(path: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Return what changes if a model file, or a file beside it whose name begins with its stem, is replaced.

    Args:
        path: of the model; need not exist.
    """
    beside = sorted(path.parent.glob(f"{glob.escape(path.stem)}*")) if path.is_file() else []
    return tuple((str(file), (one := file.stat()).st_mtime_ns, one.st_size, one.st_ino) for file in beside)


def _too_large(path: str | Path, allowed_mib: float) -> str:
    return (
        f"{path}: a trial run needs more than the {allowed_mib:.0f} MiB of memory that we allow it; "
        f"{raise_it('memory_mib', 2 * allowed_mib)}"
    )


def _confine(memory_mib: float, cpu_s: float, limits: Limits) -> None:
    """Limit this process now; memory may be raised later, time only up to the user's limit."""
    if resource is None:
        return
    resource.setrlimit(resource.RLIMIT_DATA, (int(memory_mib * MIB), resource.getrlimit(resource.RLIMIT_DATA)[1]))
    resource.setrlimit(resource.RLIMIT_CPU, (int(min(cpu_s, limits.trial_s)), limits.trial_s + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _work_mib(graph: ModelGraph) -> float:
    """Return the largest memory of the tensors that are needed at the same time."""
    size_of = {name: tensor.size_bits / BITS_PER_BYTE / MIB for name, tensor in graph.tensors.items()}
    readers = {name: len(indices) for name, indices in graph.consumers.items()}
    live = most = sum(size_of[name] for name in graph.inputs)
    for op in graph.ops:
        live += sum(size_of[name] for name in op.outputs)
        most = max(most, live)
        for name in op.inputs:
            readers[name] -= 1
            live -= size_of[name] if not readers[name] else 0
    return most


def _main(path: str, settings: str) -> int:
    said = json.loads(settings)
    limits = Limits(*said["limits"])
    own = limits.memory_mib if limits.memory_mib != DEFAULT_LIMITS.memory_mib else 0
    beside = Path(path).parent.glob(f"{glob.escape(Path(path).stem)}*")
    size_bytes = sum(file.stat().st_size for file in beside if file.is_file())
    load_mib = LOAD_MIB + MEMORY_PER_FILE_BYTE * size_bytes / MIB + own
    allowed_mib = load_mib
    _confine(load_mib, limits.trial_s, limits)
    from coinfer.graph.onnx.load import load
    from coinfer.graph.segment import segment
    from coinfer.graph.session import open_session

    try:
        graph = load(path, said["sizes"], limits)
        work_mib = _LIVE_COPIES * _work_mib(graph)
        if work_mib > limits.memory_mib:
            print(_too_large(path, limits.memory_mib))
            return REFUSED
        made_mib = max(0, sum(weight.nbytes for weight in graph.weights.values()) - size_bytes) / MIB
        allowed_mib = load_mib + MEMORY_PER_FILE_BYTE * made_mib + work_mib
        _confine(allowed_mib, time.process_time() + START_S + graph.work_flop / FLOP_PER_S, limits)
        session = open_session(graph, segment(graph, graph.inputs, graph.outputs))
    except (GraphError, MemoryError) as error:
        large = isinstance(error, MemoryError) or any(word in str(error) for word in _OUT_OF_MEMORY)
        print(_too_large(path, allowed_mib) if large else error)
        return REFUSED
    inputs = (graph.tensors[name] for name in graph.inputs)
    try:
        session.run(list(graph.outputs), {tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in inputs})
    except Exception as error:  # ONNX Runtime's exceptions share no base class below this one
        if any(word in str(error) for word in _OUT_OF_MEMORY):
            print(_too_large(path, allowed_mib))
            return REFUSED
        print(f"does not run on zeros: {printable(str(error), 300)}")  # it may want other values
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))

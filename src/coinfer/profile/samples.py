"""Inputs to measure a network on, if nobody gives any: values that the network can take."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from coinfer.errors import printable
from coinfer.graph.ir import ModelGraph, Tensor
from coinfer.graph.segment import segment
from coinfer.graph.session import failed_operation, open_session, silent
from coinfer.profile.table import ProfileError

Sample = Mapping[str, np.ndarray]
"""One value at batch 1 for each of the network's inputs."""

_MOVING_KINDS = "Cast Clip Flatten Identity Reshape Squeeze Transpose Unsqueeze"
_MOVING = frozenset(_MOVING_KINDS.split())


def random_samples(graph: ModelGraph, count: int = 1, seed: int = 0) -> list[Sample]:
    """Return random samples, if no others are at hand. Times are right, sizes of payloads are not.

    Floats are normal noise. Whole numbers that select rows of a table (`Gather`) are spread over its rows; all others,
    such as masks and lengths, are one.

    Args:
        graph: says what its inputs are.
        count: of samples.
        seed: equal seeds make equal samples.
    """
    rng = np.random.default_rng(seed)
    tensors, rows = [graph.tensors[name] for name in graph.inputs], _table_rows(graph)
    return [{t.name: _random(rng, t, rows.get(t.name, 0)) for t in tensors} for _ in range(count)]


def workable_samples(graph: ModelGraph, known: Sequence[Sample] = ()) -> list[Sample]:
    """Return one sample that the network can take, found by trial: a random one, zeros, ones, or a known one.

    Args:
        graph: the network; it is run once or a few times.
        known: inputs that it may take, tried last; those of another type or shape than the network's are left out.

    Raises:
        ProfileError: if it takes none of them.
    """
    tensors = [graph.tensors[name] for name in graph.inputs]
    zeros = {t.name: np.zeros(t.shape, t.dtype) for t in tensors}
    ones = {t.name: np.ones(t.shape, t.dtype) for t in tensors}
    session = open_session(graph, segment(graph, graph.inputs, graph.outputs))
    problem = ""
    for sample in (*random_samples(graph), zeros, ones, *(one for one in known if _fits(graph, one))):
        try:
            session.run(list(graph.outputs), dict(sample), silent())
        except Exception as error:  # ONNX Runtime's exceptions share no base class below this one
            problem = failed_operation(str(error)) or printable(str(error), 200)
        else:
            return [sample]
    smallest = ", ".join(f"{axis.name}={axis.low}" for axis in graph.axes)
    at = f" at its smallest sizes, {smallest}" if smallest else ""
    raise ProfileError(
        f"{graph.name} takes neither noise nor zeros nor ones{at} ({problem}); "
        "measure it on inputs that it takes with `coinfer profile --samples FILE.npz`, one array for each input"
    )


def _fits(graph: ModelGraph, sample: Sample) -> bool:
    try:
        check_samples(graph, [sample])
    except ProfileError:
        return False
    return True


def read_samples(graph: ModelGraph, path: Path) -> list[Sample]:
    """Return the samples in a file.

    Args:
        graph: the network.
        path: .npz with an array for each input, by its name; or .npy for a network of one input. An array is one
            sample, or several along its first axis if that is 1 in the network.

    Raises:
        ProfileError: if the file cannot be read, or does not hold samples that fit.
    """
    try:
        found = np.load(path, allow_pickle=False)
        arrays = dict(found) if isinstance(found, np.lib.npyio.NpzFile) else {graph.inputs[0]: found}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        reason = (isinstance(error, OSError) and error.strerror) or "no .npz or .npy file of numbers"
        raise ProfileError(f"{path}: cannot read samples: {reason}") from None
    counts = [_count(arrays[name], graph.tensors[name]) for name in graph.inputs if name in arrays]
    count = max(counts, default=1)
    samples: list[Sample] = [arrays]
    if count > 1:
        samples = [{name: _row(array, k) for name, array in arrays.items()} for k in range(count)]
    try:
        check_samples(graph, samples)
    except ProfileError as error:
        raise ProfileError(f"{path}: {error}") from None
    return samples


def _count(array: np.ndarray, tensor: Tensor) -> int:
    """Return how many samples an array holds."""
    return len(array) if array.ndim and tensor.shape[:1] == (1,) and array.shape[1:] == tensor.shape[1:] else 1


def _row(array: np.ndarray, k: int) -> np.ndarray:
    return array[k : k + 1] if array.ndim and len(array) > k else array


def _random(rng: np.random.Generator, tensor: Tensor, rows: int) -> np.ndarray:
    if rows:
        return rng.integers(0, rows, tensor.shape).astype(tensor.dtype)
    if tensor.dtype.kind == "f":
        return rng.standard_normal(tensor.shape).astype(tensor.dtype)
    return np.ones(tensor.shape, tensor.dtype)


def _table_rows(graph: ModelGraph) -> dict[str, int]:
    """Return the number of rows of the smallest table from which each input selects, for inputs that do."""
    origin: dict[str, str] = {name: name for name in graph.inputs}
    rows: dict[str, int] = {}
    for op in graph.ops:
        if op.kind in _MOVING and len(op.inputs) == 1 and op.inputs[0] in origin:
            origin |= dict.fromkeys(op.outputs, origin[op.inputs[0]])
        node = graph.node(op) if op.kind == "Gather" else None
        if node is not None and node.input[1] in origin and node.input[0] in graph.weights:
            axis = next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == "axis"), 0)
            source, size = origin[node.input[1]], graph.weights[node.input[0]].shape[axis]
            rows[source] = min(rows.get(source, size), size)
    return rows


def check_samples(graph: ModelGraph, samples: Sequence[Sample]) -> None:
    """Refuse samples that do not fit a network.

    Args:
        graph: the network.
        samples: at least one.

    Raises:
        ProfileError: if there is none, or one lacks an input or has another type or shape.
    """
    if not samples:
        raise ProfileError(f"{graph.name}: no samples to run it on; random_samples makes some")
    for k, sample in enumerate(samples):
        for tensor in map(graph.tensors.__getitem__, graph.inputs):
            array = sample.get(tensor.name)
            if array is None or array.shape != tensor.shape or array.dtype != tensor.dtype:
                got = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
                expected = f"{tensor.dtype} {list(tensor.shape)}"
                raise ProfileError(f"{graph.name}: input {tensor.name!r} of sample {k} is {got}, expected {expected}")

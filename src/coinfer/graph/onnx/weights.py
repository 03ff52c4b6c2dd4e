"""Values of weights, inside a model file and in files beside it.

ONNX Runtime itself refuses most bad paths, but reads through hard links; so our own code reads these files.
"""

import errno
import math
import os
import re
import stat
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

import numpy as np
import onnx
from onnx import numpy_helper

from coinfer.graph.ir import GraphError
from coinfer.graph.onnx.limits import DEFAULT_LIMITS, Limits, raise_it
from coinfer.units import BITS_PER_BYTE, MIB

DTYPES: Mapping[int, np.dtype] = {
    onnx.TensorProto.FLOAT: np.dtype(np.float32),
    onnx.TensorProto.DOUBLE: np.dtype(np.float64),
    onnx.TensorProto.FLOAT16: np.dtype(np.float16),
    onnx.TensorProto.INT8: np.dtype(np.int8),
    onnx.TensorProto.INT16: np.dtype(np.int16),
    onnx.TensorProto.INT32: np.dtype(np.int32),
    onnx.TensorProto.INT64: np.dtype(np.int64),
    onnx.TensorProto.UINT8: np.dtype(np.uint8),
    onnx.TensorProto.UINT16: np.dtype(np.uint16),
    onnx.TensorProto.UINT32: np.dtype(np.uint32),
    onnx.TensorProto.UINT64: np.dtype(np.uint64),
    onnx.TensorProto.BOOL: np.dtype(np.bool_),
}

PLAIN = frozenset(DTYPES.values())
"""Types that NumPy has; only tensors of these are computed while a file is read, and sent."""
_PACKED = frozenset(
    number
    for name, number in onnx.TensorProto.DataType.items()
    if name == "BFLOAT16" or name.startswith(("FLOAT8", "FLOAT4", "INT4", "UINT4", "INT2", "UINT2"))
)
"""Types of weights that ONNX Runtime reads and NumPy lacks; they stay as they are."""


def read_weights(
    tensors: Iterable[onnx.TensorProto], where: str, directory: Path | None, limits: Limits = DEFAULT_LIMITS
) -> dict[str, np.ndarray]:
    """Return the values of initializers by name.

    Args:
        tensors: the initializers.
        where: what messages call the model.
        directory: folder below which files with weights may lie; None refuses such weights.
        limits: of what the model may take.

    Raises:
        GraphError: if a value is missing, has the wrong size, or lies where it must not, or there are too many.
    """
    total_mib = 0.0
    weights = {}
    for tensor in tensors:
        total_mib += size_bytes(tensor, where) / MIB
        if total_mib > limits.weights_mib:
            raise GraphError(
                f"{where}: more than {limits.weights_mib} MiB of weights; {raise_it('weights_mib', total_mib)}"
            )
        if is_external(tensor):
            weights[tensor.name] = _read_external(tensor, where, directory)
        else:
            weights[tensor.name] = tensor_value(tensor, where)
    return weights


def size_bytes(tensor: onnx.TensorProto, where: str) -> int:
    """Return the size of a tensor's values in a file, from its type and shape.

    Args:
        tensor: its values need not be present.
        where: what messages call the model.

    Raises:
        GraphError: if ONNX has no such type, or a dimension is negative.
    """
    if any(dim < 0 for dim in tensor.dims):
        raise GraphError(f"{where}: {tensor.name!r} has a negative dimension in {list(tensor.dims)}")
    if tensor.data_type == onnx.TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    if tensor.data_type not in DTYPES and tensor.data_type not in _PACKED:
        name = onnx.TensorProto.DataType.Name(tensor.data_type) if tensor.data_type in _TYPE_NUMBERS else "unknown"
        raise GraphError(f"{where}: {tensor.name!r} has type {name}; convert it to FLOAT or FLOAT16")
    name = onnx.TensorProto.DataType.Name(tensor.data_type)
    digits = re.search(r"\d+", name.replace("FLOAT8E", "FLOAT8 E").replace("FLOAT4E", "FLOAT4 E"))
    dtype = DTYPES.get(tensor.data_type)
    bits = dtype.itemsize * BITS_PER_BYTE if dtype else int(digits[0]) if digits else 8
    return -(-math.prod(tensor.dims) * bits // BITS_PER_BYTE)


_TYPE_NUMBERS = frozenset(onnx.TensorProto.DataType.values())


def tensor_value(tensor: onnx.TensorProto, where: str) -> np.ndarray:
    """Return the values of a tensor that lies within the model file.

    Args:
        tensor: with its values.
        where: what messages call the model.

    Raises:
        GraphError: if it holds more or fewer values than its shape says, or has an unknown type.
    """
    expected = size_bytes(tensor, where)
    if tensor.HasField("raw_data") and len(tensor.raw_data) != expected:
        raise GraphError(f"{where}: {tensor.name!r} holds {len(tensor.raw_data)} bytes; its shape needs {expected}")
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise GraphError(f"{where}: {tensor.name!r} does not hold the values that {list(tensor.dims)} needs") from error


def is_external(tensor: onnx.TensorProto) -> bool:
    """Return true if a tensor's values lie in another file.

    Args:
        tensor: of a model.
    """
    return tensor.data_location == onnx.TensorProto.EXTERNAL or bool(tensor.external_data)


def _read_external(tensor: onnx.TensorProto, where: str, directory: Path | None) -> np.ndarray:
    entry = {item.key: item.value for item in tensor.external_data}
    problem = f"{where}: weight {tensor.name!r}"
    if directory is None:
        raise GraphError(f"{problem} lies in another file, but this model does not come from a directory")
    expected = size_bytes(tensor, where)
    offset, length = (
        _whole(entry.get(key, default), problem) for key, default in (("offset", 0), ("length", expected))
    )
    if length != expected:
        raise GraphError(f"{problem} holds {length} bytes in {entry.get('location')!r}; its shape needs {expected}")
    handle = _open_beside(entry.get("location", ""), directory, problem)
    with os.fdopen(handle, "rb") as file:
        if offset + length > os.fstat(handle).st_size:
            raise GraphError(f"{problem} ends beyond the end of {entry['location']!r}; the file is truncated")
        if tensor.data_type in DTYPES:
            value = np.fromfile(file, DTYPES[tensor.data_type], math.prod(tensor.dims), offset=offset)
            return value.reshape(tuple(tensor.dims))
        file.seek(offset)
        inside = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        inside.raw_data = file.read(length)
        return tensor_value(inside, problem)


def _whole(text: str | int, problem: str) -> int:
    if isinstance(text, int) or (text.isascii() and text.isdigit() and len(text) < 20):
        return int(text)
    raise GraphError(f"{problem}: offset or length {text[:40]!r} in its file is no whole number of bytes")


def _open_beside(location: str, directory: Path, problem: str) -> int:
    """Return a descriptor of a plain file below `directory` that no link leads to or from."""
    parts = PurePosixPath(location).parts
    if not parts or "\\" in location or "\0" in location or ".." in parts or PurePosixPath(location).is_absolute():
        raise GraphError(f"{problem} lies in {location!r}; expected a file beside the model, by a relative path")
    with ExitStack() as opened:
        try:
            handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            opened.callback(os.close, handle)
            for i, part in enumerate(parts, 1):
                kind = os.O_DIRECTORY if i < len(parts) else os.O_NONBLOCK
                handle = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | kind, dir_fd=handle)
                opened.callback(os.close, handle)
        except OSError as error:
            raise GraphError(_advice(problem, location, directory, error)) from error
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise GraphError(
                f"{problem} lies in {location!r}, which is no plain file or has hard links; replace it by a copy: "
                f"cp {location} {location}.copy && mv {location}.copy {location}"
            )
        return os.dup(handle)


def _advice(problem: str, location: str, directory: Path, error: OSError) -> str:
    """Return what to do about a file with weights that cannot be opened."""
    path = directory / location
    if error.errno in {errno.ELOOP, errno.ENOTDIR} and any(p.is_symlink() for p in (path, *path.parents)):
        real = os.path.realpath(path)
        return (
            f"{problem}: {location!r} is a link, and links out of a model's folder are not followed; put the file "
            f"itself beside the model: cp --remove-destination {real} {path}"
        )
    if error.errno == errno.ENOENT:
        return f"{problem}: No such file as {str(path)!r}, which holds it; it belongs to the model, put it there"
    return f"{problem}: cannot open {location!r} without following links: {error.strerror}"

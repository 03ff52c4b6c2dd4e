"""What a model file must satisfy before anything else touches it: a foreign file is hostile until it has passed here.

ONNX Runtime itself refuses most bad paths, but reads through hard links, and runs a loop of 2^62 steps for ever. So
our own code reads weights outside the model file, and only known operations of bounded work are accepted.
"""

import math
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

import numpy as np
import onnx
from onnx import numpy_helper

from coinfer.graph.ir import GraphError
from coinfer.units import MIB

MAX_FILE_BYTES = 2048 * MIB
"""Protobuf's own limit."""
MAX_WEIGHT_BYTES = 8 * 1024 * MIB
MAX_OPS = 20_000
OPSETS = range(7, onnx.defs.onnx_opset_version() + 1)
"""Versions of the ai.onnx operations that are read."""

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

_ALLOWED = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization BitShift
BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu CenterCropPad Clip Col2Im Concat Constant
ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumSum DeformConv DepthToSpace DequantizeLinear Det Div
Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND
Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization
HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less
LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul MatMulInteger Max MaxPool Mean MeanVarianceNormalization Min
Mish Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear RMSNormalization RNN
Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign RotaryEmbedding Round ScatterElements ScatterND Selu
Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish
Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
ALLOWED_OPS = frozenset(_ALLOWED.split())
"""Operations of ai.onnx that take bounded time, contain no graphs, read no files and always give the same result: no
loops, branches, sequences, strings, image decoders, random numbers or training."""


def read_proto(path: Path) -> onnx.ModelProto:
    """Return the parsed model file; weights in other files are still references.

    Args:
        path: of the model file.

    Raises:
        GraphError: if the file is missing, no ONNX model, or larger than `MAX_FILE_BYTES`.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise GraphError(f"{path}: not a regular file; expected an ONNX model such as model.onnx")
        if status.st_size > MAX_FILE_BYTES:
            raise GraphError(f"{path}: {status.st_size / MIB:.0f} MiB; an ONNX file has at most 2048 MiB")
        data = path.read_bytes()
    except OSError as error:
        raise GraphError(f"{path}: cannot read the model: {error.strerror}") from error
    try:
        proto = onnx.ModelProto.FromString(data)
    except Exception as error:  # protobuf's own error type belongs to no public module of onnx
        raise GraphError(
            f"{path}: not an ONNX model, or truncated ({len(data)} bytes read); export it again"
        ) from error
    if not proto.HasField("graph") or not proto.graph.output:
        raise GraphError(f"{path}: not an ONNX model: it has no graph with outputs")
    return proto


def check_proto(proto: onnx.ModelProto, where: str) -> None:
    """Refuse a model with operations outside `ALLOWED_OPS`, or beyond the limits.

    Args:
        proto: the whole model.
        where: what messages call the model.

    Raises:
        GraphError: if anything is refused; the message names the first such thing.
    """
    versions = [opset.version for opset in proto.opset_import if opset.domain in {"", "ai.onnx"}]
    if not versions:
        raise GraphError(f"{where}: states no version of the ai.onnx operations; not a whole ONNX model")
    if versions[0] not in OPSETS:
        raise GraphError(f"{where}: opset {versions[0]}; expected {OPSETS[0]} to {OPSETS[-1]}; convert the model")
    if proto.functions:
        raise GraphError(f"{where}: has functions of its own ({proto.functions[0].name}); export it with them inlined")
    if proto.graph.sparse_initializer:
        raise GraphError(f"{where}: has sparse weights; store them dense")
    if len(proto.graph.node) > MAX_OPS:
        raise GraphError(f"{where}: {len(proto.graph.node)} operations; at most {MAX_OPS} are read")
    for node in proto.graph.node:
        _check_node(node, where)
        _check_signature(node, versions[0], where)


def _check_node(node: onnx.NodeProto, where: str) -> None:
    kind = node.op_type if node.domain in {"", "ai.onnx"} else f"{node.domain}.{node.op_type}"
    if kind not in ALLOWED_OPS:
        raise GraphError(
            f"{where}: operation {kind} ({node.name!r}) is not allowed; see coinfer.graph.onnx.validate.ALLOWED_OPS"
        )
    for attribute in node.attribute:
        if attribute.HasField("g") or attribute.graphs:
            raise GraphError(
                f"{where}: operation {kind} ({node.name!r}) holds a graph of its own, which is not allowed"
            )
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            raise GraphError(f"{where}: operation {kind} ({node.name!r}) holds a sparse tensor; store it dense")
        if any(_is_external(tensor) for tensor in (attribute.t, *attribute.tensors)):
            raise GraphError(
                f"{where}: operation {kind} ({node.name!r}) keeps a tensor in another file; only weights may"
            )


def _check_signature(node: onnx.NodeProto, opset: int, where: str) -> None:
    """Refuse wrong numbers of inputs or outputs for the operation's version, and unknown attributes."""
    problem = f"{where}: operation {node.op_type} ({node.name!r})"
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError as error:
        raise GraphError(f"{problem} does not exist in opset {opset}") from error
    for role, count, low, high in (
        ("inputs", len(node.input), schema.min_input, schema.max_input),
        ("outputs", len(node.output), schema.min_output, schema.max_output),
    ):
        if not low <= count <= high:
            raise GraphError(f"{problem} has {count} {role}; expected {low} to {high}")
    if not any(node.output) or not all(node.input[: schema.min_input]):
        raise GraphError(f"{problem} lacks an input that it needs, or makes nothing")
    for attribute in node.attribute:
        known = schema.attributes.get(attribute.name)
        if known is None or known.type != attribute.type:
            raise GraphError(f"{problem}: attribute {attribute.name!r} is unknown or has the wrong type")


def read_weights(tensors: Sequence[onnx.TensorProto], where: str, directory: Path | None) -> dict[str, np.ndarray]:
    """Return the values of initializers by name.

    Args:
        tensors: the initializers.
        where: what messages call the model.
        directory: folder below which files with weights may lie; None refuses such weights.

    Raises:
        GraphError: if a value is missing, has the wrong size, or lies where it must not, or there are more than
            `MAX_WEIGHT_BYTES`.
    """
    budget = MAX_WEIGHT_BYTES
    weights = {}
    for tensor in tensors:
        budget -= size_bytes(tensor, where)
        if budget < 0:
            raise GraphError(f"{where}: more than {MAX_WEIGHT_BYTES / MIB:.0f} MiB of weights")
        if _is_external(tensor):
            weights[tensor.name] = _read_external(tensor, where, directory)
        else:
            weights[tensor.name] = tensor_value(tensor, where)
    return weights


def size_bytes(tensor: onnx.TensorProto, where: str) -> int:
    """Return the size of a tensor's values in memory, from its type and shape.

    Args:
        tensor: its values need not be present.
        where: what messages call the model.

    Raises:
        GraphError: if NumPy has no such type, or a dimension is negative.
    """
    if tensor.data_type not in DTYPES:
        name = onnx.TensorProto.DataType.Name(tensor.data_type) if tensor.data_type in _TYPE_NUMBERS else "unknown"
        raise GraphError(f"{where}: {tensor.name!r} has type {name}; convert it to FLOAT or FLOAT16")
    if any(dim < 0 for dim in tensor.dims):
        raise GraphError(f"{where}: {tensor.name!r} has a negative dimension in {list(tensor.dims)}")
    return math.prod(tensor.dims) * DTYPES[tensor.data_type].itemsize


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
    except ValueError as error:
        raise GraphError(f"{where}: {tensor.name!r} does not hold the values that {list(tensor.dims)} needs") from error


def _is_external(tensor: onnx.TensorProto) -> bool:
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
        value = np.fromfile(file, DTYPES[tensor.data_type], math.prod(tensor.dims), offset=offset)
    return value.reshape(tuple(tensor.dims))


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
            raise GraphError(
                f"{problem}: cannot open {location!r} without following links: {error.strerror}"
            ) from error
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise GraphError(f"{problem} lies in {location!r}, which is no plain file or has hard links; copy it")
        return os.dup(handle)

"""Messages to and from Open Inference Protocol v2 (gRPC) messages. Protobuf appears here and in `rpc` only."""

import math
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from coinfer.runtime.protocol import protobuf_framing
from coinfer.runtime.protocol.messages import (
    DEFAULT_LIMIT_BYTES,
    DTYPES,
    MAX_NAME_BYTES,
    MAX_TENSORS,
    InferReply,
    InferRequest,
    WireError,
    WireTensor,
    invalid,
    read_report,
    report,
    request_options,
    route_json,
    too_large,
)
from coinfer.units import BITS_PER_BYTE

pb: Any = service_pb2
CODEC_PARAMETER = "coinfer_codec"
"""Marks a tensor whose bytes are a payload of the codec."""
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
_RAW_INPUTS_FIELD = 7
_RAW_OUTPUTS_FIELD = 6


def request_bytes(request: InferRequest) -> bytes:
    """The request as a `ModelInferRequest` message."""
    raws = [tensor.data for tensor in request.inputs]
    return protobuf_framing.join(_request_header(request).SerializeToString(), _RAW_INPUTS_FIELD, raws)


def request_bits(request: InferRequest) -> int:
    """Size of the request's message."""
    raws = [tensor.data for tensor in request.inputs]
    return BITS_PER_BYTE * protobuf_framing.joined_bytes(_request_header(request).ByteSize(), _RAW_INPUTS_FIELD, raws)


def parse_request(message: bytes, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> InferRequest:
    """The request in a `ModelInferRequest` message; its tensors borrow the message's memory.

    Raises:
        WireError: RESOURCE_EXHAUSTED where it is too large, INVALID_ARGUMENT for any other fault.
    """
    if len(message) > limit_bytes:
        raise too_large(len(message), limit_bytes)
    proto, raws = _split(message, _RAW_INPUTS_FIELD, pb.ModelInferRequest)
    inputs = _tensors(proto.inputs, raws)
    if len(proto.outputs) > MAX_TENSORS:
        raise invalid(f"expected at most {MAX_TENSORS} outputs, got {len(proto.outputs)}")
    for output in proto.outputs:
        _check_name(output.name, "output")
        _refuse_shared_memory(output)
    if len({output.name for output in proto.outputs}) < len(proto.outputs):
        raise invalid("an output is asked for twice")
    return InferRequest(
        model=proto.model_name,
        inputs=inputs,
        outputs=tuple(output.name for output in proto.outputs),
        id=proto.id,
        version=proto.model_version,
        **request_options({name: _value(value) for name, value in proto.parameters.items()}),
    )


def _request_header(request: InferRequest) -> Any:
    proto = pb.ModelInferRequest(model_name=request.model, model_version=request.version, id=request.id)
    for tensor in request.inputs:
        _describe(proto.inputs.add(), tensor)
    for name in request.outputs:
        proto.outputs.add().name = name
    if request.fingerprint:
        proto.parameters["fingerprint"].string_param = request.fingerprint
    if request.deadline_s < math.inf:
        proto.parameters["deadline_s"].double_param = request.deadline_s
    if request.route:
        proto.parameters["route"].string_param = route_json(request.route)
    if request.bits is not None:
        proto.parameters["bits"].int64_param = request.bits
    if request.warm:
        proto.parameters["warm"].bool_param = True
    return proto


def reply_bytes(reply: InferReply) -> bytes:
    """The reply as a `ModelInferResponse` message."""
    raws = [tensor.data for tensor in reply.outputs]
    return protobuf_framing.join(_reply_header(reply).SerializeToString(), _RAW_OUTPUTS_FIELD, raws)


def reply_bits(reply: InferReply) -> int:
    """Size of the reply's message."""
    raws = [tensor.data for tensor in reply.outputs]
    return BITS_PER_BYTE * protobuf_framing.joined_bytes(_reply_header(reply).ByteSize(), _RAW_OUTPUTS_FIELD, raws)


def parse_reply(message: bytes) -> InferReply:
    """The reply in a `ModelInferResponse` message, of this or a foreign server.

    Raises:
        WireError: INTERNAL where the message is damaged.
    """
    try:
        proto, raws = _split(message, _RAW_OUTPUTS_FIELD, pb.ModelInferResponse)
        outputs = _tensors(proto.outputs, raws)
        times, load, executed = read_report({name: _value(value) for name, value in proto.parameters.items()})
    except WireError as error:
        raise WireError("INTERNAL", f"damaged reply: {error.message}", "bad_reply") from None
    return InferReply(proto.model_name, outputs, proto.id, proto.model_version, **times, load=load, executed=executed)


def _reply_header(reply: InferReply) -> Any:
    proto = pb.ModelInferResponse(model_name=reply.model, model_version=reply.version, id=reply.id)
    for tensor in reply.outputs:
        _describe(proto.outputs.add(), tensor)
    for name, value in report(reply).items():
        kind = {str: "string_param", int: "int64_param", float: "double_param"}[type(value)]
        setattr(proto.parameters[name], kind, value)
    return proto


def _describe(proto: Any, tensor: WireTensor) -> None:
    proto.name, proto.datatype = tensor.name, tensor.datatype
    proto.shape.extend(tensor.shape)
    if tensor.codec:
        proto.parameters[CODEC_PARAMETER].bool_param = True


def _value(parameter: Any) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None


def _check_name(name: str, what: str) -> None:
    if not name or len(name.encode()) > MAX_NAME_BYTES:
        raise invalid(f"{what} name: expected 1 to {MAX_NAME_BYTES} bytes, got {len(name.encode())}")


def _refuse_shared_memory(proto: Any) -> None:
    if "shared_memory_region" in proto.parameters:
        raise WireError("UNIMPLEMENTED", f"tensor {proto.name!r}: shared memory is not offered; send the bytes")


def _split(message: bytes, raw_field: int, kind: Any) -> tuple[Any, list[memoryview]]:
    """The message without its raw contents, parsed, and those, uncopied."""
    try:
        rest, raws = protobuf_framing.split(message, raw_field)
        return kind.FromString(rest), raws
    except (protobuf_framing.FramingError, DecodeError, UnicodeDecodeError):
        raise invalid(f"not a valid {kind.DESCRIPTOR.name} message") from None


def _tensors(described: Any, raws: list[memoryview]) -> tuple[WireTensor, ...]:
    """Tensors from their descriptions and either raw or typed contents."""
    if len(described) > MAX_TENSORS:
        raise invalid(f"expected at most {MAX_TENSORS} tensors, got {len(described)}")
    if raws and len(raws) != len(described):
        raise invalid(f"expected raw contents for all {len(described)} tensors, got {len(raws)}")
    tensors = []
    for i, proto in enumerate(described):
        _check_name(proto.name, "tensor")
        _refuse_shared_memory(proto)
        if raws and proto.HasField("contents"):
            raise invalid(f"tensor {proto.name!r}: expected raw or typed contents, got both")
        data = raws[i] if raws else _typed(proto)
        codec = _value(proto.parameters[CODEC_PARAMETER]) is True if CODEC_PARAMETER in proto.parameters else False
        tensors.append(WireTensor(proto.name, proto.datatype, tuple(proto.shape), data, codec))
    names = [tensor.name for tensor in tensors]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise invalid(f"tensor {twice!r} is given twice")
    return tuple(tensors)


def _typed(proto: Any) -> bytes:
    """Typed contents as raw bytes."""
    kind = _CONTENTS.get(proto.datatype)
    filled = [found.name for found, _ in proto.contents.ListFields()]
    if not filled:
        return b""
    if filled != [kind]:
        raise invalid(f"tensor {proto.name!r}: expected {kind or 'raw contents'} for {proto.datatype!r}, got {filled}")
    values, dtype = np.array(getattr(proto.contents, filled[0])), DTYPES[proto.datatype]
    if dtype.kind in "iu" and not np.array_equal(values, values.astype(dtype)):
        raise invalid(f"tensor {proto.name!r}: a value lies outside {proto.datatype}")
    return values.astype(dtype).tobytes()

"""Requests and replies as Open Inference Protocol v2 (gRPC) messages. Only this folder knows protobuf."""

import math
from functools import lru_cache

import numpy as np
from google.protobuf.message import DecodeError

from coinfer.runtime.protocol import protobuf_framing
from coinfer.runtime.protocol.checks import (
    TensorDescription,
    TensorHeader,
    check_request,
    check_tensors,
    numbers_to_bytes,
)
from coinfer.runtime.protocol.messages import (
    CODEC_PARAMETER,
    DEFAULT_LIMIT_BYTES,
    DEFAULT_PRIORITY,
    InferReply,
    InferRequest,
    WireError,
    WireTensor,
    bad_request,
    check_size,
)
from coinfer.runtime.protocol.parameters import (
    choice_of,
    cold_pieces,
    parse_reply_parameters,
    reply_parameters,
    route_json,
)
from coinfer.runtime.protocol.protobuf_types import (
    INFER_REPLY,
    INFER_REQUEST,
    InferMessage,
    InferMessageType,
    ParameterMessage,
    TensorMessage,
    TensorMessages,
)
from coinfer.runtime.protocol.short_form import SHORT, lengthen_reply, read_request, request_text, shorten_reply
from coinfer.runtime.protocol.task_options import options_json
from coinfer.units import BITS_PER_BYTE

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
_PARAMETER_KINDS = {str: "string_param", bool: "bool_param", int: "int64_param", float: "double_param"}
CACHED_HEADERS, CACHED_BYTES = 64, 512
"""Of requests that differ in their tensors' data alone, the rest is parsed once: so many are kept, of so many bytes."""
_RAW_INPUTS_FIELD = 7
_RAW_OUTPUTS_FIELD = 6


def request_bytes(request: InferRequest) -> bytes:
    """Return a request as a `ModelInferRequest` message.

    Args:
        request: the tensors' data is copied once, into the message.
    """
    raws = [tensor.data for tensor in request.inputs]
    return protobuf_framing.join(_request_header(request).SerializeToString(), _RAW_INPUTS_FIELD, raws)


def request_bits(request: InferRequest) -> int:
    """Return the size of a request's message in bits, without building it.

    Args:
        request: the one that `request_bytes` would turn into a message.
    """
    raws = [tensor.data for tensor in request.inputs]
    return BITS_PER_BYTE * protobuf_framing.joined_bytes(_request_header(request).ByteSize(), _RAW_INPUTS_FIELD, raws)


def parse_request(message: bytes, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> InferRequest:
    """Return the request in a `ModelInferRequest` message; its tensors share the message's memory.

    Args:
        message: from any client.
        limit_bytes: largest message that is accepted.

    Raises:
        WireError: RESOURCE_EXHAUSTED if it is too large, UNIMPLEMENTED for what is not offered, else INVALID_ARGUMENT.
    """
    check_size(len(message), limit_bytes)
    rest, raws = _split(message, _RAW_INPUTS_FIELD, "ModelInferRequest")
    request, headers, protos = (_parse_rest if len(rest) > CACHED_BYTES else _parse_rest_cached)(rest)
    return request._replace(inputs=_tensors(headers, protos, raws))


def _parse_rest(rest: bytes) -> tuple[InferRequest, tuple[TensorHeader, ...], TensorMessages]:
    """Return what a request's message without its raw contents says: the request and the headers of its inputs."""
    proto = _message(INFER_REQUEST, rest, "ModelInferRequest")
    inputs, parameters = _descriptions(proto.inputs), _parameters(proto)
    is_short = SHORT in parameters
    if is_short:
        said = read_request(parameters[SHORT])
        twice = said.parameters.keys() & parameters.keys()
        if twice:
            raise bad_request(f"parameters {SHORT} and {min(twice)}: expected one of them, as both say the same")
        parameters = {**said.parameters, **parameters}
        inputs = [_as_payload(tensor) for tensor in inputs] if said.payloads else inputs
    outputs = [TensorDescription(output.name, _parameters(output)) for output in proto.outputs]
    request, headers = check_request(proto.model_name, proto.model_version, proto.id, inputs, outputs, parameters)
    return request._replace(short=is_short), headers, proto.inputs


_parse_rest_cached = lru_cache(CACHED_HEADERS)(_parse_rest)


def _request_header(request: InferRequest) -> InferMessage:
    proto = INFER_REQUEST(model_name=request.model, model_version=request.version, id=request.id)
    payloads = request.short and all(tensor.codec for tensor in request.inputs)
    for tensor in request.inputs:
        _describe(proto.inputs.add(), tensor, is_marked=not payloads)
    for name in request.outputs:
        proto.outputs.add().name = name
    if request.short:
        text = request_text(request.deadline_s, payloads, request.fingerprint)
        proto.parameters[SHORT].string_param = text
    else:
        _name_parameters(proto, request)
    if request.route:
        proto.parameters["route"].string_param = route_json(request.route)
    if request.bits is not None:
        proto.parameters["bits"].int64_param = request.bits
    if request.warm:
        proto.parameters["warm"].bool_param = True
    if request.dispatch:
        proto.parameters["dispatch"].bool_param = True
    if request.options is not None:
        proto.parameters["options"].string_param = options_json(request.options)
    if request.priority != DEFAULT_PRIORITY:
        proto.parameters["priority"].int64_param = request.priority
    if request.objective.goal:
        proto.parameters["goal"].string_param = request.objective.goal
    for name in ("min_accuracy", "energy_j"):
        limit = getattr(request.objective, name)
        if limit is not None:
            proto.parameters[name].double_param = limit
    return proto


def _name_parameters(proto: InferMessage, request: InferRequest) -> None:
    """Write under their names what the short form has fields for."""
    if request.fingerprint:
        proto.parameters["fingerprint"].string_param = request.fingerprint
    if request.deadline_s < math.inf:
        proto.parameters["deadline_s"].double_param = request.deadline_s


def reply_bytes(reply: InferReply) -> bytes:
    """Return a reply as a `ModelInferResponse` message.

    Args:
        reply: the tensors' data is copied once, into the message.
    """
    raws = [tensor.data for tensor in reply.outputs]
    return protobuf_framing.join(_reply_header(reply).SerializeToString(), _RAW_OUTPUTS_FIELD, raws)


def reply_bits(reply: InferReply) -> int:
    """Return the size of a reply's message in bits, without building it.

    Args:
        reply: the one that `reply_bytes` would turn into a message.
    """
    raws = [tensor.data for tensor in reply.outputs]
    return BITS_PER_BYTE * protobuf_framing.joined_bytes(_reply_header(reply).ByteSize(), _RAW_OUTPUTS_FIELD, raws)


def parse_reply(message: bytes) -> InferReply:
    """Return the reply in a `ModelInferResponse` message; its tensors share the message's memory.

    Args:
        message: from this or any other server.

    Raises:
        WireError: INTERNAL if the message is damaged.
    """
    try:
        rest, raws = _split(message, _RAW_OUTPUTS_FIELD, "ModelInferResponse")
        proto = _message(INFER_REPLY, rest, "ModelInferResponse")
        outputs = _tensors(check_tensors(_descriptions(proto.outputs), "output"), proto.outputs, raws)
        said = _parameters(proto)
        parameters = lengthen_reply(said)
        times, load, executed = parse_reply_parameters(parameters)
        cold, choice = cold_pieces(parameters), choice_of(parameters)
    except WireError as error:
        raise WireError("INTERNAL", f"damaged reply: {error.message}", "bad_reply") from None
    reply = InferReply(proto.model_name, outputs, proto.id, proto.model_version, load=load, executed=executed)
    return reply._replace(cold=cold, choice=choice, short=SHORT in said, **times)


def _reply_header(reply: InferReply) -> InferMessage:
    if reply.short:
        proto, parameters = INFER_REPLY(id=reply.id), shorten_reply(reply_parameters(reply))
    else:
        proto = INFER_REPLY(model_name=reply.model, model_version=reply.version, id=reply.id)
        parameters = reply_parameters(reply)
    for tensor in reply.outputs:
        _describe(proto.outputs.add(), tensor)
    for name, value in parameters.items():
        setattr(proto.parameters[name], _PARAMETER_KINDS[type(value)], value)
    return proto


def _describe(proto: TensorMessage, tensor: WireTensor, is_marked: bool = True) -> None:
    proto.name, proto.datatype = tensor.name, tensor.datatype
    proto.shape.extend(tensor.shape)
    if tensor.codec and is_marked:
        proto.parameters[CODEC_PARAMETER].bool_param = True


def _descriptions(tensors: TensorMessages) -> list[TensorDescription]:
    return [
        TensorDescription(tensor.name, _parameters(tensor), tensor.datatype, tuple(tensor.shape)) for tensor in tensors
    ]


def _as_payload(tensor: TensorDescription) -> TensorDescription:
    return tensor._replace(parameters={**tensor.parameters, CODEC_PARAMETER: True})


def _parameters(proto: InferMessage | TensorMessage) -> dict[str, object]:
    return {name: _value(value) for name, value in proto.parameters.items()}


def _value(parameter: ParameterMessage) -> object:
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None


def _split(message: bytes, raw_field: int, name: str) -> tuple[bytes, list[memoryview]]:
    """Return the message without its raw contents, and the raw contents without copying them."""
    try:
        return protobuf_framing.split(message, raw_field)
    except protobuf_framing.FramingError:
        raise bad_request(f"not a valid {name} message") from None


def _message(kind: InferMessageType, rest: bytes, name: str) -> InferMessage:
    try:
        return kind.FromString(rest)
    except (DecodeError, UnicodeDecodeError):
        raise bad_request(f"not a valid {name} message") from None


def _tensors(
    headers: tuple[TensorHeader, ...], protos: TensorMessages, raws: list[memoryview]
) -> tuple[WireTensor, ...]:
    """Return the tensors with their data, from raw or typed contents."""
    if raws and len(raws) != len(headers):
        raise bad_request(f"expected raw contents for all {len(headers)} tensors, got {len(raws)}")
    tensors: list[WireTensor] = []
    for i, (header, proto) in enumerate(zip(headers, protos, strict=True)):
        if raws and proto.HasField("contents"):
            raise bad_request(f"input {header.name!r}: expected raw or typed contents, got both")
        tensors.append(header.with_data(raws[i] if raws else _typed_bytes(header, proto)))
    return tuple(tensors)


def _typed_bytes(header: TensorHeader, proto: TensorMessage) -> bytes:
    """Return typed contents as raw bytes."""
    kind = _CONTENTS.get(header.datatype)
    filled = {field.name: values for field, values in proto.contents.ListFields()}
    if not filled:
        return b""
    if kind is None or list(filled) != [kind]:
        expected = f"{kind or 'raw contents'} for {header.datatype!r}"
        raise bad_request(f"input {header.name!r}: expected {expected}, got {list(filled)}")
    return numbers_to_bytes(header, np.array(filled[kind]))

"""Requests and replies of the protocol as JSON over HTTP, with the extension for binary tensors."""

import json
import math
from typing import Any

import numpy as np

from coinfer.runtime.protocol.messages import (
    DTYPES,
    MAX_NAME_BYTES,
    MAX_RANK,
    MAX_TENSORS,
    InferReply,
    InferRequest,
    WireTensor,
    invalid,
    report,
    request_options,
    to_array,
)

BINARY_SIZE = "binary_data_size"
CODEC_PARAMETER = "coinfer_codec"


def parse_request(model: str, version: str, body: bytes, json_bytes: int | None) -> tuple[InferRequest, Any]:
    """The request in a body, and which outputs it wants as binary: a function from name to bool.

    Args:
        json_bytes: size of the JSON at the start of the body; binary tensors follow it. None where there are none.

    Raises:
        WireError: INVALID_ARGUMENT.
    """
    if json_bytes is not None and not 0 <= json_bytes <= len(body):
        raise invalid(f"Inference-Header-Content-Length: expected 0 to {len(body)}, got {json_bytes}")
    view = memoryview(body)
    content = _json_object(body if json_bytes is None else body[:json_bytes])
    inputs = _inputs(content.get("inputs"), view[len(body) if json_bytes is None else json_bytes :])
    outputs = _list(content.get("outputs", []), "outputs")
    names = tuple(_name(output, "output") for output in outputs)
    if len(set(names)) < len(names):
        raise invalid("an output is asked for twice")
    parameters = _parameters(content)
    binary = {_name(output, "output"): _parameters(output).get("binary_data") for output in outputs}
    default = parameters.get("binary_data_output", False)
    id = content.get("id", "")
    if not isinstance(id, str):
        raise invalid("id: expected a string")
    request = InferRequest(model, inputs, names, id, version, **request_options(parameters))
    return request, lambda name: bool(default if binary.get(name) is None else binary[name])


def reply_body(reply: InferReply, is_binary: Any) -> tuple[bytes, int | None]:
    """The body of a reply and the size of the JSON at its start; None where there is nothing else."""
    described, blobs = [], []
    for tensor in reply.outputs:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        parameters: dict[str, Any] = {CODEC_PARAMETER: True} if tensor.codec else {}
        if is_binary(tensor.name):
            parameters[BINARY_SIZE] = len(tensor.data)
            blobs.append(tensor.data)
        else:
            entry["data"] = to_array(tensor).reshape(-1).tolist()
        described.append(entry | ({"parameters": parameters} if parameters else {}))
    content = {"model_name": reply.model, "model_version": reply.version, "outputs": described}
    content |= {"id": reply.id} if reply.id else {}
    text = json.dumps(content | {"parameters": report(reply)}).encode()
    return b"".join([text, *blobs]), len(text) if blobs else None


def _json_object(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise invalid("the body is not valid JSON; expected an inference request object") from None
    if not isinstance(content, dict):
        raise invalid("the body is not a JSON object; expected an inference request object")
    return content


def _inputs(described: Any, blobs: memoryview) -> tuple[WireTensor, ...]:
    tensors = []
    for entry in _list(described, "inputs"):
        name, parameters = _name(entry, "input"), _parameters(entry)
        datatype, shape = entry.get("datatype"), entry.get("shape")
        if not isinstance(datatype, str):
            raise invalid(f"input {name!r}: expected a datatype of {', '.join(DTYPES)}")
        if not isinstance(shape, list) or not all(type(dim) is int for dim in shape):
            raise invalid(f"input {name!r}: expected shape as a list of integers")
        if BINARY_SIZE in parameters:
            size = parameters[BINARY_SIZE]
            if type(size) is not int or not 0 <= size <= len(blobs):
                raise invalid(f"input {name!r}: expected {BINARY_SIZE} from 0 to {len(blobs)}, got {size!r}")
            if "data" in entry:
                raise invalid(f"input {name!r}: expected data or {BINARY_SIZE}, got both")
            data, blobs = blobs[:size], blobs[size:]
        else:
            data = _from_numbers(name, datatype, shape, entry.get("data"))
        tensors.append(WireTensor(name, datatype, tuple(shape), data, parameters.get(CODEC_PARAMETER) is True))
    if len(blobs):
        raise invalid(f"{len(blobs)} bytes after the last tensor belong to none")
    names = [tensor.name for tensor in tensors]
    if len(set(names)) < len(names):
        raise invalid(f"input {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return tuple(tensors)


def _from_numbers(name: str, datatype: str, shape: list[int], data: Any) -> bytes:
    """JSON numbers, flat or nested, as raw bytes."""
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise invalid(f"input {name!r}: expected a datatype of {', '.join(DTYPES)}, got {datatype[:32]!r}")
    if not isinstance(data, list) or len(shape) > MAX_RANK:
        raise invalid(f"input {name!r}: expected data as a list of numbers for at most {MAX_RANK} dimensions")
    try:
        values = np.array(data)
        exact = values.astype(dtype)
        fits = values.dtype.kind in "biuf" and (dtype.kind == "f" or bool(np.array_equal(exact, values)))
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise invalid(f"input {name!r}: expected numbers of {datatype}, all rows of one length") from None
    if not fits and values.size:
        raise invalid(f"input {name!r}: a value is no {datatype}")
    if exact.size != math.prod(shape):
        raise invalid(f"input {name!r}: expected {math.prod(shape)} numbers for shape {shape}, got {exact.size}")
    return exact.tobytes()


def _list(value: Any, what: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise invalid(f"{what}: expected a list of objects")
    if len(value) > MAX_TENSORS:
        raise invalid(f"{what}: expected at most {MAX_TENSORS}, got {len(value)}")
    return value


def _name(entry: dict[str, Any], what: str) -> str:
    name = entry.get("name")
    if not isinstance(name, str) or not 0 < len(name.encode(errors="replace")) <= MAX_NAME_BYTES:
        raise invalid(f"{what} name: expected a string of 1 to {MAX_NAME_BYTES} bytes")
    return name


def _parameters(entry: dict[str, Any]) -> dict[str, Any]:
    parameters = entry.get("parameters", {})
    if not isinstance(parameters, dict):
        raise invalid("parameters: expected an object")
    return parameters

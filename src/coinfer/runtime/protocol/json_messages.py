"""Requests and replies of the protocol as JSON over HTTP, with the extension for binary tensors."""

import json
import math
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from coinfer.runtime.protocol.checks import TensorDescription, TensorHeader, check_request, numbers_to_bytes
from coinfer.runtime.protocol.messages import (
    CODEC_PARAMETER,
    InferReply,
    InferRequest,
    WireTensor,
    bad_request,
    to_array,
)
from coinfer.runtime.protocol.parameters import Parameters, flag, reply_parameters

BINARY_SIZE = "binary_data_size"

IsBinary = Callable[[str], bool]
"""Returns true for the name of an output that becomes bytes."""
_Object = dict[str, object]


def parse_request(
    model: str, version: str, body: bytes | memoryview, json_bytes: int | None
) -> tuple[InferRequest, IsBinary]:
    """Return the request in an HTTP body, and which outputs it asks for as bytes.

    Args:
        model: name from the path.
        version: from the path; empty for any.
        body: JSON, then the bytes of binary tensors; they are borrowed, not copied.
        json_bytes: size of the JSON; None if it is the whole body.

    Raises:
        WireError: INVALID_ARGUMENT for what is wrong, UNIMPLEMENTED for what is not offered.
    """
    if json_bytes is not None and not 0 <= json_bytes <= len(body):
        raise bad_request(f"Inference-Header-Content-Length: expected 0 to {len(body)}, got {json_bytes}")
    end = len(body) if json_bytes is None else json_bytes
    content = json_object(bytes(body[:end]))
    inputs, outputs, parameters = _list(content, "inputs"), _list(content, "outputs"), _parameters(content)
    input_descriptions = [
        TensorDescription(entry.get("name"), _parameters(entry), entry.get("datatype"), entry.get("shape"))
        for entry in inputs
    ]
    output_descriptions = [TensorDescription(entry.get("name"), _parameters(entry)) for entry in outputs]
    request, headers = check_request(
        model, version, content.get("id"), input_descriptions, output_descriptions, parameters
    )
    default = flag(parameters, "binary_data_output")
    binary = {
        name: flag(output.parameters, "binary_data", default)
        for name, output in zip(request.outputs, output_descriptions, strict=True)
    }
    tensors = _tensors(headers, inputs, memoryview(body)[end:])
    return request._replace(inputs=tensors), lambda name: binary.get(name, default)


def reply_body(reply: InferReply, is_binary: IsBinary) -> tuple[bytes, int | None]:
    """Return the HTTP body of a reply, and the size of its JSON; None if the JSON is the whole body.

    Args:
        reply: its outputs become bytes after the JSON or numbers in it.
        is_binary: says by name which outputs become bytes.

    Raises:
        WireError: INVALID_ARGUMENT if an output that becomes numbers holds infinity.
    """
    entries: list[_Object] = []
    blobs: list[bytes | memoryview] = []
    for tensor in reply.outputs:
        entry: _Object = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        parameters: _Object = {CODEC_PARAMETER: True} if tensor.codec else {}
        if is_binary(tensor.name):
            parameters[BINARY_SIZE] = len(tensor.data)
            blobs.append(tensor.data)
        else:
            entry["data"] = _numbers(tensor)
        entries.append(entry | ({"parameters": parameters} if parameters else {}))
    content: _Object = {"model_name": reply.model, "model_version": reply.version, "outputs": entries}
    content |= {"id": reply.id} if reply.id else {}
    text = json.dumps(content | {"parameters": reply_parameters(reply)}).encode()
    return b"".join([text, *blobs]), len(text) if blobs else None


def _numbers(tensor: WireTensor) -> list[bool | int | float | None]:
    """Return a tensor's values for JSON, which has no NaN (written as null) and no infinity (refused)."""
    array = to_array(tensor).reshape(-1)
    values: list[bool | int | float | None] = array.tolist()
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return values
    if np.isinf(array).any():
        raise bad_request(
            f"output {tensor.name!r} holds infinity, which JSON cannot say; ask for it with the parameter binary_data"
        )
    return [None if value is None or math.isnan(value) else value for value in values]


def json_object(text: bytes) -> _Object:
    """Return the object that a body holds.

    Args:
        text: of the body.

    Raises:
        WireError: INVALID_ARGUMENT if it holds none.
    """
    try:
        content: object = json.loads(text)
    except (ValueError, RecursionError):
        raise bad_request("the body is not valid JSON; expected an object") from None
    if not isinstance(content, dict):
        raise bad_request("the body is not a JSON object; expected an object")
    return cast(_Object, content)


def _tensors(headers: Sequence[TensorHeader], entries: Sequence[_Object], blobs: memoryview) -> tuple[WireTensor, ...]:
    """Return the inputs with their data, from their entry or from the bytes after the JSON."""
    tensors: list[WireTensor] = []
    for header, entry in zip(headers, entries, strict=True):
        size = _parameters(entry).get(BINARY_SIZE)
        if size is None:
            tensors.append(header.with_data(_from_numbers(header, entry.get("data"))))
            continue
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(blobs):
            raise bad_request(f"input {header.name!r}: expected {BINARY_SIZE} from 0 to {len(blobs)}, got {size!r}")
        if entry.get("data") is not None:
            raise bad_request(f"input {header.name!r}: expected data or {BINARY_SIZE}, got both")
        tensors.append(header.with_data(blobs[:size]))
        blobs = blobs[size:]
    if len(blobs):
        raise bad_request(f"{len(blobs)} bytes after the last tensor belong to none")
    return tuple(tensors)


def _from_numbers(header: TensorHeader, data: object) -> bytes:
    """Return JSON numbers, flat or nested, as raw bytes."""
    if not isinstance(data, list):
        raise bad_request(f"input {header.name!r}: expected data as a list of numbers")
    try:
        return numbers_to_bytes(header, np.array(cast(list[object], data)))
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise bad_request(
            f"input {header.name!r}: expected numbers of {header.datatype}, all rows of one length"
        ) from None


def _list(content: _Object, name: str) -> list[_Object]:
    value = content.get(name)
    entries = [] if value is None else cast(list[object], value) if isinstance(value, list) else [None]
    if not all(isinstance(entry, dict) for entry in entries):
        raise bad_request(f"{name}: expected a list of objects")
    return cast(list[_Object], entries)


def _parameters(entry: _Object) -> Parameters:
    value = entry.get("parameters")
    if value is not None and not isinstance(value, dict):
        raise bad_request("parameters: expected an object")
    return cast(_Object, value or {})

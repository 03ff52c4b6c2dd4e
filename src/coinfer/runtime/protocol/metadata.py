"""Messages about servers and models (health, metadata, configuration, statistics) as protobuf.

`edge.metadata` makes their content once, for JSON; protobuf has the same fields.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import DecodeError

from coinfer.runtime.protocol import protobuf_framing
from coinfer.runtime.protocol.messages import MAX_NAME_BYTES, bad_request
from coinfer.runtime.protocol.protobuf_types import MODEL_REQUEST, message_type

MessageName = Literal[
    "ServerLiveResponse",
    "ServerReadyResponse",
    "ServerMetadataResponse",
    "ModelReadyResponse",
    "ModelMetadataResponse",
    "ModelConfigResponse",
    "ModelStatisticsResponse",
    "ModelStreamInferResponse",
    "RepositoryIndexResponse",
    "RepositoryModelLoadResponse",
    "RepositoryModelUnloadResponse",
]
_STREAM_REPLY_FIELD = 2


def message_bytes(name: MessageName, content: Mapping[str, object]) -> bytes:
    """Return a protobuf message as bytes.

    Args:
        name: of the message's type.
        content: its fields in the form of JSON.
    """
    return ParseDict(dict(content), message_type(name)()).SerializeToString()


def requested_model(message: bytes) -> tuple[str, str]:
    """Return model and version from a request about one model.

    Args:
        message: any of these requests; they all have the same fields.

    Raises:
        WireError: INVALID_ARGUMENT if the message is damaged or the name too long.
    """
    try:
        request = MODEL_REQUEST.FromString(message)
    except (DecodeError, UnicodeDecodeError):
        raise bad_request("not a valid request for a model") from None
    if len(request.name.encode()) > MAX_NAME_BYTES:
        raise bad_request(f"model name: expected at most {MAX_NAME_BYTES} bytes")
    return request.name, request.version


class RepositoryRequest(NamedTuple):
    """What a request about the repository asks for."""

    model: str
    """Empty for the index."""
    parameters: tuple[str, ...]
    """Names of parameters, such as `config`, which change what is loaded."""
    ready: bool
    """Of the index: only models that are served."""


def repository_request(
    name: Literal["RepositoryIndexRequest", "RepositoryModelLoadRequest", "RepositoryModelUnloadRequest"],
    message: bytes,
) -> RepositoryRequest:
    """Return what a request about the repository asks for.

    Args:
        name: of the message's type.
        message: as it came.

    Raises:
        WireError: INVALID_ARGUMENT if the message is damaged.
    """
    request = message_type(name)()
    try:
        request.ParseFromString(message)
    except (DecodeError, UnicodeDecodeError):
        raise bad_request(f"not a valid {name}") from None
    fields = MessageToDict(request, preserving_proto_field_name=True)
    return RepositoryRequest(
        str(fields.get("model_name", "")), tuple(fields.get("parameters", {})), bool(fields.get("ready", False))
    )


def stream_reply(reply: bytes) -> bytes:
    """Return a reply as an item of a stream.

    Args:
        reply: a `ModelInferResponse` message; it is embedded as it is.
    """
    return protobuf_framing.join(b"", _STREAM_REPLY_FIELD, [reply])


def stream_error(id: str, message: str) -> bytes:
    """Return an error as an item of a stream.

    Args:
        id: of the request that failed; empty if it could not be read.
        message: one line for a person.
    """
    return message_bytes("ModelStreamInferResponse", {"error_message": message, "infer_response": {"id": id}})

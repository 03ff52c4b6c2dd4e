"""Types for the protocol's protobuf classes, which tritonclient generates without any.

`service_pb2` is imported here and nowhere else; what is said of its classes is checked by the tests of the messages.
"""

from collections.abc import Iterator, MutableMapping, MutableSequence, Sequence
from typing import Any, Protocol, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2  # pyright: ignore[reportMissingTypeStubs]


class ParameterMessage(Protocol):
    bool_param: bool
    int64_param: int
    string_param: str
    double_param: float

    def WhichOneof(self, oneof_group: str) -> str | None: ...


class ContentsMessage(Protocol):
    def ListFields(self) -> Sequence[tuple[FieldDescriptor, Sequence[float]]]: ...


class TensorMessage(Protocol):
    """`InferInputTensor`, `InferOutputTensor`; a requested output has no contents."""

    name: str
    datatype: str

    @property
    def shape(self) -> MutableSequence[int]: ...
    @property
    def parameters(self) -> MutableMapping[str, ParameterMessage]: ...
    @property
    def contents(self) -> ContentsMessage: ...
    def HasField(self, field_name: str) -> bool: ...


class TensorMessages(Protocol):
    def add(self) -> TensorMessage: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[TensorMessage]: ...


class InferMessage(Protocol):
    """What `ModelInferRequest` and `ModelInferResponse` have in common, and what one of them has."""

    model_name: str
    model_version: str
    id: str

    @property
    def parameters(self) -> MutableMapping[str, ParameterMessage]: ...
    @property
    def inputs(self) -> TensorMessages: ...
    @property
    def outputs(self) -> TensorMessages: ...
    def SerializeToString(self) -> bytes: ...
    def ByteSize(self) -> int: ...


class InferMessageType(Protocol):
    def __call__(self, *, model_name: str = "", model_version: str = "", id: str = "") -> InferMessage: ...
    def FromString(self, s: bytes) -> InferMessage: ...


class ModelRequestMessage(Protocol):
    """`ModelReadyRequest`, and all requests about one model, which have the same fields."""

    name: str
    version: str


class ModelRequestType(Protocol):
    def FromString(self, s: bytes) -> ModelRequestMessage: ...


_pb = cast(Any, service_pb2)
INFER_REQUEST: InferMessageType = _pb.ModelInferRequest
INFER_REPLY: InferMessageType = _pb.ModelInferResponse
MODEL_REQUEST: ModelRequestType = _pb.ModelReadyRequest


def message_type(name: str) -> type[Message]:
    """Return the class of a message of the protocol."""
    return cast(type[Message], getattr(_pb, name))

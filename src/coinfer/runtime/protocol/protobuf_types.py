"""Types for the protocol's protobuf classes, which tritonclient generates without any.

Only this module imports `service_pb2`; the tests of the messages check what it says about the classes.
"""

from collections.abc import Iterator, MutableMapping, MutableSequence, Sequence
from typing import Any, Protocol, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2  # pyright: ignore[reportMissingTypeStubs]


class ParameterMessage(Protocol):
    """`InferParameter`: one value of one of several kinds."""

    bool_param: bool
    int64_param: int
    string_param: str
    double_param: float

    def WhichOneof(self, oneof_group: str) -> str | None:
        """Return the name of the field that is set, or None.

        Args:
            oneof_group: `parameter_choice`.
        """
        ...


class ContentsMessage(Protocol):
    """`InferTensorContents`: numbers listed one by one."""

    def ListFields(self) -> Sequence[tuple[FieldDescriptor, Sequence[float]]]:
        """Return the fields that hold numbers, with them."""
        ...


class TensorMessage(Protocol):
    """`InferInputTensor`, `InferOutputTensor` or `InferRequestedOutputTensor`, which has no contents."""

    name: str
    datatype: str

    @property
    def shape(self) -> MutableSequence[int]:
        """Return the sizes of the axes, to be read or changed in place."""
        ...

    @property
    def parameters(self) -> MutableMapping[str, ParameterMessage]:
        """Return the parameters by name; a name that is looked up comes into being."""
        ...

    @property
    def contents(self) -> ContentsMessage:
        """Return the numbers listed one by one; empty if the data is raw."""
        ...

    def HasField(self, field_name: str) -> bool:
        """Return true if a field is set.

        Args:
            field_name: `contents`.
        """
        ...


class TensorMessages(Protocol):
    """A repeated field of tensors."""

    def add(self) -> TensorMessage:
        """Append a tensor.

        Returns:
            The new tensor, empty, to be filled.
        """
        ...

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[TensorMessage]: ...


class InferMessage(Protocol):
    """What `ModelInferRequest` and `ModelInferResponse` have in common, and `inputs`, which only the request has."""

    model_name: str
    model_version: str
    id: str

    @property
    def parameters(self) -> MutableMapping[str, ParameterMessage]:
        """Return the parameters by name; a name that is looked up comes into being."""
        ...

    @property
    def inputs(self) -> TensorMessages:
        """Return the input tensors of a request."""
        ...

    @property
    def outputs(self) -> TensorMessages:
        """Return the requested outputs of a request, or the outputs of a reply."""
        ...

    def SerializeToString(self) -> bytes:
        """Return the message as bytes."""
        ...

    def ByteSize(self) -> int:
        """Return the size of the message in bytes."""
        ...


class InferMessageType(Protocol):
    """The class of an `InferMessage`."""

    def __call__(self, *, model_name: str = "", model_version: str = "", id: str = "") -> InferMessage: ...
    def FromString(self, s: bytes) -> InferMessage:
        """Return the message that bytes hold.

        Args:
            s: a serialised message.

        Raises:
            DecodeError: if they hold none.
        """
        ...


class ModelRequestMessage(Protocol):
    """`ModelReadyRequest`, and any request about one model: they all have the same fields."""

    name: str
    version: str


class ModelRequestType(Protocol):
    """The class of a `ModelRequestMessage`."""

    def FromString(self, s: bytes) -> ModelRequestMessage:
        """Return the message that bytes hold.

        Args:
            s: a serialised message.

        Raises:
            DecodeError: if they hold none.
        """
        ...


_pb = cast(Any, service_pb2)
INFER_REQUEST: InferMessageType = _pb.ModelInferRequest
INFER_REPLY: InferMessageType = _pb.ModelInferResponse
MODEL_REQUEST: ModelRequestType = _pb.ModelReadyRequest


def message_type(name: str) -> type[Message]:
    """Return the class of a message of the protocol.

    Args:
        name: such as `ModelMetadataResponse`; must exist.
    """
    return cast(type[Message], getattr(_pb, name))

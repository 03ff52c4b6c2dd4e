"""Messages between nodes, whatever protocol carries them.

A request asks a node to compute some named tensors of a network from others. What the Open Inference Protocol does not
know (deadline, bits, route, fingerprint) travels as request parameters, so that stock clients and servers understand
the rest.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np

from coinfer.runtime.protocol.task_options import Choice, TaskOptions
from coinfer.types import Hop
from coinfer.units import MESSAGE_BYTES

Code = Literal[
    "CANCELLED",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "UNKNOWN",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "ABORTED",
    "ALREADY_EXISTS",
    "DATA_LOSS",
    "OUT_OF_RANGE",
]
"""Names of the gRPC status codes; the last four are used by foreign servers only."""

DEFAULT_LIMIT_BYTES = MESSAGE_BYTES
"""Largest message."""
ALIGNMENT = 16
"""Tensors whose bytes lie at a multiple of this are computed on in place."""
MAX_TENSORS = 64
MAX_NAME_BYTES = 256
MAX_RANK = 16
MAX_ELEMENTS = 2**48
"""Axes of size 0 count as 1: an array without elements has strides too."""
DTYPES = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""Datatypes of the protocol that networks use; BYTES and BF16 have no NumPy type."""
CODEC_PARAMETER = "coinfer_codec"
"""Marks a tensor whose bytes are a payload of the codec."""
DATATYPES = {dtype: name for name, dtype in DTYPES.items()}


class WireError(Exception):
    """The error that a caller gets.

    Args:
        code: gRPC status code.
        message: one line for a person.
        reason: one word for a program, such as `queue_full`.
        pushback_s: when to try this node again; negative means never, None that the code decides.
    """

    def __init__(self, code: Code, message: str, reason: str = "", pushback_s: float | None = None):
        super().__init__(message)
        self.code: Code = code
        self.message = message
        self.reason = reason
        self.pushback_s = pushback_s
        """When to try this node again; negative means never, None that the code decides."""


class TransportError(Exception):
    """A request that got no reply.

    Args:
        code: gRPC status code.
        message: one line for a person.
        pushback_s: when the node may be asked again; negative means not with this request, None that it did not say.
        reason: one word for a program, such as `unreachable`.
    """

    def __init__(self, code: Code, message: str, pushback_s: float | None = None, reason: str = ""):
        super().__init__(f"{code}: {message}")
        self.code: Code = code
        self.message = message
        self.pushback_s = pushback_s
        """When the node may be asked again; negative means not with this request, None that it did not say."""
        self.reason = reason
        """One word for programs, such as `queue_full`, `hopeless`, `draining`, `too_large`."""


class WireTensor(NamedTuple):
    """A tensor as it travels."""

    name: str
    datatype: str
    """OIP datatype, such as `FP32`."""
    shape: tuple[int, ...]
    data: bytes | memoryview
    """Little-endian, row-major."""
    codec: bool = False
    """True if `data` is a payload of the codec, which knows the true dtype and shape."""


class RequestedObjective(NamedTuple):
    """What a request asks of a gateway beside its deadline; an edge server has no choice to make."""

    goal: str = ""
    """`latency`, `accuracy` or `energy`; empty leaves it to the gateway."""
    min_accuracy: float | None = None
    """Limit on the expected accuracy, 0 to 1."""
    energy_j: float | None = None
    """Limit on the device's energy."""


ANY_OBJECTIVE = RequestedObjective()
LAST_PRIORITY = 100
DEFAULT_PRIORITY = 10
"""Of a request that says none; 1 is served first."""


class InferRequest(NamedTuple):
    """Compute `outputs` from `inputs`; then answer, or send them on along `route`."""

    model: str
    inputs: tuple[WireTensor, ...]
    outputs: tuple[str, ...] = ()
    """Names of any tensors of the network; empty asks for its outputs."""
    id: str = ""
    version: str = ""
    fingerprint: str = ""
    """`ModelGraph.fingerprint` of the sender; empty if any will do."""
    deadline_s: float = math.inf
    """Time that is left."""
    route: tuple[Hop, ...] = ()
    """Hops after this node; the first of them gets the outputs."""
    bits: int | None = None
    """Bits per element with which the outputs leave this node; None sends plain tensors."""
    warm: bool = False
    """Only build the session and run it on zeros; `InferReply.server_s` is the median time."""
    dispatch: bool = False
    """Any edge server of the site may compute this; the one that it reaches chooses."""
    options: TaskOptions | None = None
    """What the sender could do: nothing is computed, and the reply says what it should do. It has no inputs then."""
    priority: int = DEFAULT_PRIORITY
    """Of requests that wait, those of the smallest number are served first."""
    objective: RequestedObjective = ANY_OBJECTIVE
    short: bool = False
    """Between coinfer's nodes: gRPC carries parameters in the short form (`short_form.py`), and so does the reply."""


class LoadReport(NamedTuple):
    """The load of a node, which it puts into every reply."""

    backlog_s: float
    """Work that waits or runs, divided by the workers."""
    queued: int
    room: int
    """Requests that it would still admit."""


class ExecutedHop(NamedTuple):
    """What one hop of a route did."""

    node: str
    cut: tuple[str, ...]
    server_s: float
    queue_s: float
    link_bps: float = 0.0
    """Rate of the link to it from the hop before, as that one believes; 0 if it says nothing."""
    round_trip_s: float = 0.0
    """Of an empty message over that link."""


class ColdPiece(NamedTuple):
    """A piece of a network that a node has opened before and that is not in its memory now."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    load_s: float
    """Time to load it again."""


class InferReply(NamedTuple):
    """The outputs of a request, and what the nodes on its route measured."""

    model: str
    outputs: tuple[WireTensor, ...]
    id: str = ""
    version: str = ""
    queue_s: float = 0.0
    """Wait for the piece to be loaded, for a worker of the first node, and for the others of its batch."""
    server_s: float = 0.0
    """Time of computing on the first node; in a batch, what it takes alone."""
    codec_s: float = 0.0
    """Time of decoding and encoding on the first node."""
    forward_s: float = 0.0
    """Time from sending the outputs to the next hop until its reply; 0 without a next hop."""
    load: LoadReport | None = None
    """None if the server is no coinfer node."""
    executed: tuple[ExecutedHop, ...] = ()
    """The first hop first."""
    upload_s: float = 0.0
    """Time on a shaped link; the sender fills it in."""
    download_s: float = 0.0
    cold: tuple[ColdPiece, ...] = ()
    """Pieces of the same network that the first node would have to load."""
    choice: Choice | None = None
    """Of the options of the request."""
    details: Mapping[str, str | int | float] = MappingProxyType({})
    """Further parameters, for people: of a gateway's reply, or `batch`, how many requests an edge server ran as one."""
    short: bool = False
    """Over gRPC, in the short form: without names of model and version, which whoever asked knows."""


def from_array(name: str, array: np.ndarray) -> WireTensor:
    """Return an array as a tensor that shares its memory.

    Args:
        name: of the tensor in the network.
        array: copied only if it is not contiguous.

    Raises:
        WireError: INVALID_ARGUMENT if the protocol has no datatype for the array's.
    """
    array = np.asarray(array, order="C")
    datatype = DATATYPES.get(array.dtype)
    if datatype is None:
        raise WireError("INVALID_ARGUMENT", f"tensor {name!r}: dtype {array.dtype} has no OIP datatype")
    return WireTensor(name, datatype, array.shape, array.reshape(-1).view(np.uint8).data)


def to_array(tensor: WireTensor) -> np.ndarray:
    """Return a tensor as a read-only array that shares its memory, or as a copy if its bytes are not aligned.

    Args:
        tensor: a payload of the codec stays encoded, as uint8.

    Raises:
        WireError: INVALID_ARGUMENT if datatype, shape and number of bytes do not fit together.
    """
    array = view_array(tensor)
    return array if array.flags.aligned else array.copy()


def view_array(tensor: WireTensor) -> np.ndarray:
    """Return a tensor as a read-only array that shares its memory even if that is not aligned, to be looked at only.

    Args:
        tensor: a payload of the codec stays encoded, as uint8.

    Raises:
        WireError: INVALID_ARGUMENT if datatype, shape and number of bytes do not fit together.
    """
    dtype = dtype_of(tensor.name, tensor.datatype, tensor.shape)
    expected, got = math.prod(tensor.shape) * dtype.itemsize, len(tensor.data)
    if expected != got:
        shape = "x".join(map(str, tensor.shape))
        raise bad_request(f"input {tensor.name!r}: expected {expected} bytes for {tensor.datatype} {shape}, got {got}")
    return np.frombuffer(tensor.data, dtype).reshape(tensor.shape)


def dtype_of(name: str, datatype: str, shape: Sequence[int], role: str = "input") -> np.dtype:
    """Return the NumPy type of a tensor, after a check of its datatype and shape.

    Args:
        name: for the error.
        datatype: such as `FP32`.
        shape: no axis may be negative.
        role: `input` or `output`, for the error.

    Raises:
        WireError: INVALID_ARGUMENT if the datatype is unknown or the shape is impossible.
    """
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise bad_request(f"{role} {name!r}: expected a datatype of {', '.join(DTYPES)}, got {datatype[:32]!r}")
    if any(dim < 0 for dim in shape) or len(shape) > MAX_RANK:
        raise bad_request(f"{role} {name!r}: expected at most {MAX_RANK} dimensions >= 0, got {list(shape[:32])}")
    if math.prod(max(dim, 1) for dim in shape) > MAX_ELEMENTS:
        raise bad_request(f"{role} {name!r}: its shape has more elements than any memory holds")
    return dtype


def check_size(size_bytes: int, limit_bytes: int) -> None:
    """Refuse a request or reply that is too large.

    Args:
        size_bytes: of the message.
        limit_bytes: largest size that is allowed.

    Raises:
        WireError: RESOURCE_EXHAUSTED, `too_large`; a retry is of no use.
    """
    if size_bytes > limit_bytes:
        text = f"message of {size_bytes} bytes is over the limit of {limit_bytes}; cut elsewhere or send fewer bits"
        raise WireError("RESOURCE_EXHAUSTED", text, "too_large", pushback_s=-1.0)


def bad_request(message: str) -> WireError:
    """Return the error for a request that is wrong in itself.

    Args:
        message: says what is wrong and what is expected, in one line.
    """
    return WireError("INVALID_ARGUMENT", message, "invalid")

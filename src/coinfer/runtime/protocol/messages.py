"""Messages between nodes, whatever protocol carries them.

A request asks a node to compute from some named tensors of a network to others. What the Open Inference Protocol does
not know (deadline, bits, route, fingerprint) is a request parameter, so that stock clients and servers understand the
rest.
"""

import json
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from coinfer.addresses import AddressError, parse_address
from coinfer.types import Hop
from coinfer.units import MIB, WIRE_BITS

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
]
"""Names of the gRPC status codes in use."""

DEFAULT_LIMIT_BYTES = 64 * MIB
"""Largest message; the first activation of VGG16 alone has 12.8 MB."""
MAX_TENSORS = 64
MAX_NAME_BYTES = 256
MAX_RANK = 16
MAX_HOPS = 16
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
"""Datatypes of the protocol that networks use; BYTES and BF16 have no NumPy form here."""
DATATYPES = {dtype: name for name, dtype in DTYPES.items()}


class WireError(Exception):
    """What a caller is told: a gRPC status code, one line for a person, and one word for a program."""

    def __init__(self, code: Code, message: str, reason: str = "", pushback_s: float | None = None):
        super().__init__(message)
        self.code: Code = code
        self.message = message
        self.reason = reason
        self.pushback_s = pushback_s
        """When to try this node again; negative means never; None means the code decides."""


class TransportError(Exception):
    """A request that got no reply."""

    def __init__(self, code: Code, message: str, pushback_s: float | None = None, reason: str = ""):
        super().__init__(f"{code}: {message}")
        self.code: Code = code
        self.message = message
        self.pushback_s = pushback_s
        """When the node may be asked again; negative means not with this request; None means it did not say."""
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
    """True where `data` is a payload of the codec, which knows the true dtype and shape."""


@dataclass(frozen=True)
class InferRequest:
    """Compute `outputs` from `inputs`; then answer, or send them on along `route`."""

    model: str
    inputs: tuple[WireTensor, ...]
    outputs: tuple[str, ...] = ()
    """Any tensors of the network; empty asks for its outputs."""
    id: str = ""
    version: str = ""
    fingerprint: str = ""
    """`ModelGraph.fingerprint` of the sender; empty where it does not mind."""
    deadline_s: float = math.inf
    """Time left."""
    route: tuple[Hop, ...] = ()
    """Hops after this node; the first of them gets the outputs."""
    bits: int | None = None
    """With how many bits per element the outputs leave this node; None sends plain tensors."""
    warm: bool = False
    """Asks only for the session to be built and run on zeros; `InferReply.server_s` is the median."""


class LoadReport(NamedTuple):
    """What a node says of itself in every reply."""

    backlog_s: float
    """Work that waits or runs, divided by the workers."""
    queued: int
    room: int
    """Requests that it would still admit."""


class Executed(NamedTuple):
    """One hop of a route as it was carried out."""

    node: str
    cut: tuple[str, ...]
    server_s: float
    queue_s: float


@dataclass(frozen=True)
class InferReply:
    model: str
    outputs: tuple[WireTensor, ...]
    id: str = ""
    version: str = ""
    queue_s: float = 0.0
    """Waiting for a worker of the node that was asked."""
    server_s: float = 0.0
    """Computing there."""
    codec_s: float = 0.0
    """Decoding and encoding there."""
    forward_s: float = 0.0
    """From sending the outputs to the next hop to having its reply; 0 where there is none."""
    load: LoadReport | None = None
    """None where the server is no coinfer node."""
    executed: tuple[Executed, ...] = ()
    """First hop first."""
    upload_s: float = 0.0
    """On a shaped link, filled in by the sender."""
    download_s: float = 0.0


def from_array(name: str, array: np.ndarray) -> WireTensor:
    """A tensor that borrows the array's memory."""
    array = np.ascontiguousarray(array)
    datatype = DATATYPES.get(array.dtype)
    if datatype is None:
        raise WireError("INVALID_ARGUMENT", f"tensor {name!r}: dtype {array.dtype} has no OIP datatype")
    return WireTensor(name, datatype, array.shape, array.reshape(-1).view(np.uint8).data)


def to_array(tensor: WireTensor) -> np.ndarray:
    """A read-only view of the tensor's bytes, or a copy where they lie unaligned; does not decode a codec payload.

    Raises:
        WireError: INVALID_ARGUMENT where datatype, shape and byte count do not fit together.
    """
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        known = ", ".join(DTYPES)
        raise invalid(f"input {tensor.name!r}: expected a datatype of {known}, got {tensor.datatype[:32]!r}")
    if any(dim < 0 for dim in tensor.shape) or len(tensor.shape) > MAX_RANK:
        raise invalid(
            f"input {tensor.name!r}: expected at most {MAX_RANK} dimensions >= 0, got {list(tensor.shape[:32])}"
        )
    expected, got = math.prod(tensor.shape) * dtype.itemsize, len(tensor.data)
    if expected != got:
        shape = "x".join(map(str, tensor.shape))
        raise invalid(f"input {tensor.name!r}: expected {expected} bytes for {tensor.datatype} {shape}, got {got}")
    array = np.frombuffer(tensor.data, dtype).reshape(tensor.shape)
    return array if array.flags.aligned else array.copy()


def request_options(parameters: dict[str, Any]) -> dict[str, Any]:
    """Coinfer's own fields of a request from its parameters (either protocol), checked; others are ignored."""
    deadline_s = _number(parameters, "deadline_s", math.inf)
    if not deadline_s >= 0:
        raise invalid(f"parameter deadline_s: expected the seconds left, 0 or more, got {deadline_s}")
    bits = parameters.get("bits")
    if bits is not None and (isinstance(bits, bool) or bits not in WIRE_BITS):
        raise invalid(f"parameter bits: expected one of {WIRE_BITS}, got {bits!r}")
    fingerprint, warm = parameters.get("fingerprint", ""), parameters.get("warm", False)
    if not isinstance(fingerprint, str):
        raise invalid(f"parameter fingerprint: expected a string, got {fingerprint!r}")
    if not isinstance(warm, bool):
        raise invalid(f"parameter warm: expected true or false, got {warm!r}")
    return {
        "deadline_s": deadline_s,
        "bits": None if bits is None else int(bits),
        "fingerprint": fingerprint,
        "warm": warm,
        "route": parse_route(parameters.get("route", "[]")),
    }


def route_json(route: tuple[Hop, ...]) -> str:
    """A route as the parameter `route`."""
    return json.dumps([{"node": hop.node, "cut": list(hop.cut), "bits": hop.bits} for hop in route])


def parse_route(text: Any) -> tuple[Hop, ...]:
    """The hops in the parameter `route`.

    Raises:
        WireError: INVALID_ARGUMENT, saying which hop is wrong and what was expected.
    """
    try:
        hops = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        hops = None
    if not isinstance(hops, list) or len(hops) > MAX_HOPS:
        raise invalid(f"parameter route: expected a JSON list of at most {MAX_HOPS} hops, got {str(text)[:60]!r}")
    return tuple(_hop(i, hop) for i, hop in enumerate(hops))


def _hop(i: int, hop: Any) -> Hop:
    if not isinstance(hop, dict) or set(hop) != {"node", "cut", "bits"}:
        raise invalid(f"parameter route, hop {i}: expected an object of node, cut and bits")
    node, cut, bits = hop["node"], hop["cut"], hop["bits"]
    try:
        node = str(parse_address(str(node), "node"))
    except AddressError as error:
        raise invalid(f"parameter route, hop {i}: {error}") from None
    if not isinstance(cut, list) or not 0 < len(cut) <= MAX_TENSORS or not all(isinstance(name, str) for name in cut):
        raise invalid(f"parameter route, hop {i}: expected cut as a list of 1 to {MAX_TENSORS} tensor names")
    if isinstance(bits, bool) or bits not in WIRE_BITS:
        raise invalid(f"parameter route, hop {i}: expected bits as one of {WIRE_BITS}, got {str(bits)[:60]}")
    return Hop(node, tuple(cut), int(bits))


def report(reply: InferReply) -> dict[str, str | int | float]:
    """What a reply says beside its tensors, as OIP parameters."""
    parameters: dict[str, str | int | float] = {name: getattr(reply, name) for name in _TIMES}
    if reply.load is not None:
        parameters |= reply.load._asdict()
    if reply.executed:
        parameters["executed"] = json.dumps([done._asdict() for done in reply.executed])
    return parameters


def read_report(parameters: dict[str, Any]) -> tuple[dict[str, float], LoadReport | None, tuple[Executed, ...]]:
    """The inverse of `report`: times, load and executed hops; what is missing is zero or empty."""
    times = {name: _number(parameters, name, 0.0) for name in _TIMES}
    load = None
    if "backlog_s" in parameters:
        queued, room = (int(_number(parameters, name, 0.0)) for name in ("queued", "room"))
        load = LoadReport(_number(parameters, "backlog_s", 0.0), queued, room)
    try:
        hops = json.loads(parameters.get("executed", "[]"))
        executed = tuple(
            Executed(str(h["node"]), tuple(map(str, h["cut"])), float(h["server_s"]), float(h["queue_s"])) for h in hops
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        raise invalid("parameter executed: expected a JSON list of node, cut, server_s, queue_s") from None
    return times, load, executed


_TIMES = ("queue_s", "server_s", "codec_s", "forward_s")


def too_large(size_bytes: int, limit_bytes: int) -> WireError:
    """The error for a message over the limit; sending it again is of no use."""
    text = f"message of {size_bytes} bytes is over the limit of {limit_bytes}; cut elsewhere or send fewer bits"
    return WireError("RESOURCE_EXHAUSTED", text, "too_large", pushback_s=-1.0)


def invalid(message: str) -> WireError:
    """The error for a request that is wrong in itself."""
    return WireError("INVALID_ARGUMENT", message, "invalid")


def _number(parameters: dict[str, Any], name: str, default: float) -> float:
    value = parameters.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise invalid(f"parameter {name}: expected a number, got {str(value)[:60]!r}")
    return float(value)

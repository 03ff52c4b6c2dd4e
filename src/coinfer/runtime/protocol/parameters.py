"""What requests and replies carry beside their tensors, as parameters of the Open Inference Protocol."""

import json
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar, cast

from coinfer.addresses import AddressError, parse_address
from coinfer.errors import short_repr
from coinfer.runtime.protocol.messages import (
    DEFAULT_PRIORITY,
    LAST_PRIORITY,
    MAX_TENSORS,
    ColdPiece,
    ExecutedHop,
    InferReply,
    LoadReport,
    RequestedObjective,
    WireError,
    bad_request,
)
from coinfer.runtime.protocol.task_options import (
    Choice,
    TaskOptions,
    choice_json,
    parse_choice,
    parse_options,
)
from coinfer.types import Hop
from coinfer.units import WIRE_BITS, WIRE_BITS_TEXT

Parameters = Mapping[str, object]
Parsed = TypeVar("Parsed")
"""By name; None counts as absent."""
MAX_HOPS = 16
UNSUPPORTED = {
    "shared_memory_region": "shared memory is not offered; send the bytes",
    "shared_memory_offset": "shared memory is not offered; send the bytes",
    "shared_memory_byte_size": "shared memory is not offered; send the bytes",
    "classification": "classification is not offered; take the largest of the raw values",
    "sequence_id": "sequences are not offered; each request stands for itself",
    "sequence_start": "sequences are not offered; each request stands for itself",
    "sequence_end": "sequences are not offered; each request stands for itself",
}
"""Parameters of other servers that change an answer, so that ignoring them would give a wrong one."""
_TIMES = ("queue_s", "server_s", "codec_s", "forward_s")
_LINK = ("link_bps", "round_trip_s")


class RequestOptions(NamedTuple):
    """Fields of `InferRequest` that travel as parameters."""

    deadline_s: float = math.inf
    bits: int | None = None
    fingerprint: str = ""
    warm: bool = False
    route: tuple[Hop, ...] = ()
    dispatch: bool = False
    options: TaskOptions | None = None
    priority: int = DEFAULT_PRIORITY
    objective: RequestedObjective = RequestedObjective()


NO_OPTIONS = RequestOptions()


def refuse_unsupported(parameters: Parameters, subject: str) -> None:
    """Refuse parameters of other servers that this one does not support.

    Args:
        parameters: 0, false and empty texts ask for nothing and pass.
        subject: whose parameters they are, for the error.

    Raises:
        WireError: UNIMPLEMENTED for the first one.
    """
    for name in UNSUPPORTED.keys() & parameters.keys() if parameters else ():
        if parameters[name]:
            raise WireError("UNIMPLEMENTED", f"{subject}: {UNSUPPORTED[name]}", "unoffered")


def request_options(parameters: Parameters) -> RequestOptions:
    """Return the fields of a request that travel as parameters.

    Args:
        parameters: unknown ones are ignored; of `deadline_s` and Triton's `timeout` the shorter counts.

    Raises:
        WireError: INVALID_ARGUMENT for an impossible value, UNIMPLEMENTED for what is not offered.
    """
    if not parameters:
        return NO_OPTIONS
    refuse_unsupported(parameters, "request")
    deadline_s = _number(parameters, "deadline_s", math.inf)
    if not deadline_s >= 0:
        raise bad_request(f"parameter deadline_s: expected the seconds left, 0 or more, got {deadline_s}")
    timeout_us = _number(parameters, "timeout", 0.0)
    if not timeout_us >= 0:
        raise bad_request(f"parameter timeout: expected microseconds, 0 or more, got {timeout_us}")
    bits = parameters.get("bits")
    route_text, dispatch = _text(parameters, "route"), flag(parameters, "dispatch")
    route = parse_route(route_text) if route_text else ()
    if route and dispatch:
        raise bad_request("parameters route and dispatch: expected one of them, as a route says who computes")
    return RequestOptions(
        min(deadline_s, timeout_us / 1e6 or math.inf),
        None if bits is None else _bits(bits, "parameter bits: expected"),
        _text(parameters, "fingerprint"),
        flag(parameters, "warm"),
        route,
        dispatch,
        _parsed(parameters, "options", parse_options),
        _priority(parameters),
        RequestedObjective(
            _text(parameters, "goal"), _optional(parameters, "min_accuracy"), _optional(parameters, "energy_j")
        ),
    )


def flag(parameters: Parameters, name: str, default: bool = False) -> bool:
    """Return a parameter that is true or false.

    Args:
        parameters: by name.
        name: of the parameter.
        default: result if the parameter is absent.

    Raises:
        WireError: INVALID_ARGUMENT if it is neither true nor false.
    """
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise bad_request(f"parameter {name}: expected true or false, got {short_repr(value)}")
    return default if value is None else value


def route_json(route: tuple[Hop, ...]) -> str:
    """Return a route in the form of the parameter `route`; `parse_route` is the inverse.

    Args:
        route: the next hop first.
    """
    return json.dumps([{"node": hop.node, "cut": list(hop.cut), "bits": hop.bits} for hop in route])


def parse_route(text: str) -> tuple[Hop, ...]:
    """Return the hops of the parameter `route`, with their addresses in one form.

    Args:
        text: a JSON list of objects with node, cut and bits.

    Raises:
        WireError: INVALID_ARGUMENT; the message says which hop is wrong and what is expected.
    """
    try:
        hops: object = json.loads(text)
    except (ValueError, RecursionError):
        hops = None
    if not isinstance(hops, list) or len(cast(list[object], hops)) > MAX_HOPS:
        raise bad_request(f"parameter route: expected a JSON list of at most {MAX_HOPS} hops, got {short_repr(text)}")
    return tuple(_hop(i, hop) for i, hop in enumerate(cast(list[object], hops)))


def _hop(i: int, hop: object) -> Hop:
    where = f"parameter route, hop {i}"
    fields = cast(dict[str, object], hop) if isinstance(hop, dict) else {}
    if set(fields) != {"node", "cut", "bits"}:
        raise bad_request(f"{where}: expected an object of node, cut and bits")
    try:
        node = str(parse_address(str(fields["node"]), "node"))
    except AddressError as error:
        raise bad_request(f"{where}: {error}") from None
    names = cast(list[object], fields["cut"]) if isinstance(fields["cut"], list) else []
    cut = tuple(name for name in names if isinstance(name, str))
    if not 0 < len(cut) <= MAX_TENSORS or len(cut) < len(names):
        raise bad_request(f"{where}: expected cut as a list of 1 to {MAX_TENSORS} tensor names")
    return Hop(node, cut, _bits(fields["bits"], f"{where}: expected bits as"))


def reply_parameters(reply: InferReply) -> dict[str, str | int | float]:
    """Return what a reply carries beside its tensors: times, load and executed hops.

    Args:
        reply: times of 0 and a load of None are left out.
    """
    times: dict[str, float] = {name: getattr(reply, name) for name in _TIMES}
    parameters: dict[str, str | int | float] = {name: time_s for name, time_s in times.items() if time_s != 0}
    parameters |= reply.details
    if reply.load is not None:
        parameters |= reply.load._asdict()
    if reply.executed:
        parameters["executed"] = json.dumps([_hop_fields(hop) for hop in reply.executed])
    if reply.choice is not None:
        parameters["choice"] = choice_json(reply.choice)
    if reply.cold:
        parameters["cold"] = json.dumps([piece._asdict() for piece in reply.cold])
    return parameters


def parse_reply_parameters(
    parameters: Parameters,
) -> tuple[dict[str, float], LoadReport | None, tuple[ExecutedHop, ...]]:
    """Return times by name, load and executed hops: the inverse of `reply_parameters`.

    Args:
        parameters: of a reply of any server; what is missing becomes zero, None or empty.

    Raises:
        WireError: INVALID_ARGUMENT if a value is of the wrong kind.
    """
    times = {name: _number(parameters, name, 0.0) for name in _TIMES}
    load = None
    if parameters.get("backlog_s") is not None:
        load = LoadReport(
            _number(parameters, "backlog_s", 0.0), _count(parameters, "queued"), _count(parameters, "room")
        )
    text = _text(parameters, "executed")
    return times, load, _executed(text) if text else ()


def cold_pieces(parameters: Parameters) -> tuple[ColdPiece, ...]:
    """Return the pieces that a reply says are not in its node's memory.

    Args:
        parameters: of a reply of any server.

    Raises:
        WireError: INVALID_ARGUMENT if they are of the wrong form.
    """
    text = _text(parameters, "cold")
    if not text:
        return ()
    try:
        pieces = tuple(
            ColdPiece(tuple(map(str, one["inputs"])), tuple(map(str, one["outputs"])), float(one["load_s"]))
            for one in json.loads(text)
        )
        if not all(0 <= piece.load_s < math.inf for piece in pieces):
            raise ValueError("a loading time is no time")
        return pieces
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise bad_request("parameter cold: expected a JSON list of inputs, outputs, load_s") from None


def choice_of(parameters: Parameters) -> Choice | None:
    """Return what a reply says that its receiver should do; None if it says nothing of it.

    Args:
        parameters: of a reply of any server.

    Raises:
        WireError: INVALID_ARGUMENT if it is of the wrong form.
    """
    return _parsed(parameters, "choice", parse_choice)


def _parsed(parameters: Parameters, name: str, parse: Callable[[str], Parsed]) -> Parsed | None:
    text = _text(parameters, name)
    try:
        return parse(text) if text else None
    except ValueError as error:
        raise bad_request(f"parameter {name}: {error}") from None


def _hop_fields(hop: ExecutedHop) -> dict[str, object]:
    """Return the fields of a hop; what is not known of its link is left out."""
    return {name: value for name, value in hop._asdict().items() if name not in _LINK or value}


def _executed(text: str) -> tuple[ExecutedHop, ...]:
    try:
        return tuple(
            ExecutedHop(
                str(hop["node"]),
                tuple(map(str, hop["cut"])),
                float(hop["server_s"]),
                float(hop["queue_s"]),
                *(float(hop.get(name, 0.0)) for name in _LINK),
            )
            for hop in json.loads(text)
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise bad_request("parameter executed: expected a JSON list of node, cut, server_s, queue_s") from None


def _bits(value: object, expected: str) -> int:
    if isinstance(value, bool) or value not in WIRE_BITS:
        raise bad_request(f"{expected} one of {WIRE_BITS_TEXT}, got {short_repr(value)}")
    return int(cast(float, value))


def _priority(parameters: Parameters) -> int:
    """Return the priority of a request; 0 stands for none, as in Triton's protocol."""
    value = _number(parameters, "priority", 0.0)
    if value not in range(LAST_PRIORITY + 1):
        raise bad_request(f"parameter priority: expected 1 (served first) to {LAST_PRIORITY}, or 0, got {value:g}")
    return int(value) or DEFAULT_PRIORITY


def _optional(parameters: Parameters, name: str) -> float | None:
    return None if parameters.get(name) is None else _number(parameters, name, 0.0)


def _text(parameters: Parameters, name: str) -> str:
    value = parameters.get(name)
    if value is not None and not isinstance(value, str):
        raise bad_request(f"parameter {name}: expected a string, got {short_repr(value)}")
    return value or ""


def _count(parameters: Parameters, name: str) -> int:
    value = _number(parameters, name, 0.0)
    if not math.isfinite(value):
        raise bad_request(f"parameter {name}: expected a whole number, got {value}")
    return int(value)


def _number(parameters: Parameters, name: str, default: float) -> float:
    value = parameters.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise bad_request(f"parameter {name}: expected a number, got {short_repr(value)}")
    try:
        return float(value)
    except OverflowError:
        raise bad_request(f"parameter {name}: {short_repr(value)} is too large a number") from None

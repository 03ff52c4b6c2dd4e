"""What coinfer's nodes say to each other beside tensors, as one short parameter in place of several named ones.

On slow links the names of parameters take longer than the code of a picture. The parameter `coinfer` holds fields with
commas between them; times are whole microseconds, and an empty field is 0 or none. What has no field here travels under
its name.

    request   deadline_s; p if all inputs are payloads of the codec; fingerprint
    reply     queue_s, server_s, codec_s, forward_s, and of a node's load backlog_s, queued, room
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from coinfer.runtime.protocol.messages import bad_request
from coinfer.units import MEGA

SHORT = "coinfer"
"""Name of the parameter."""
_PAYLOADS = "p"
_TIMES = ("queue_s", "server_s", "codec_s", "forward_s")
_LOAD = ("backlog_s", "queued", "room")
_COUNTS = ("queued", "room")
_MAX_DIGITS = 18
_LONGEST_S = 10.0**_MAX_DIGITS / MEGA


class ShortRequest(NamedTuple):
    """What the short parameter of a request says."""

    parameters: dict[str, float | str]
    """The same as named parameters."""
    payloads: bool
    """All inputs are payloads of the codec."""


def request_text(deadline_s: float, payloads: bool, fingerprint: str) -> str:
    """Return the short parameter of a request; `read_request` is the inverse.

    Args:
        deadline_s: seconds left, at least 0; infinite for none, as is one of more than 10^12 s.
        payloads: all inputs are payloads of the codec.
        fingerprint: of the sender's network; empty for any.
    """
    left = str(_whole(deadline_s * MEGA)) if deadline_s < _LONGEST_S else ""
    return f"{left},{_PAYLOADS if payloads else ''},{fingerprint}"


def read_request(value: object) -> ShortRequest:
    """Return what the short parameter of a request says.

    Args:
        value: of the parameter, from any client.

    Raises:
        WireError: INVALID_ARGUMENT if it has another form.
    """
    left, payloads, fingerprint = _fields(value, 3, "deadline in microseconds, p or nothing, fingerprint")
    if payloads not in ("", _PAYLOADS):
        raise bad_request(f"parameter {SHORT}: expected p or nothing as second field, got {payloads[:32]!r}")
    parameters: dict[str, float | str] = {"fingerprint": fingerprint} if fingerprint else {}
    if left:
        parameters["deadline_s"] = _number(left) / MEGA
    return ShortRequest(parameters, bool(payloads))


def shorten_reply(parameters: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
    """Return a reply's parameters with all that has a field in the short one; `lengthen_reply` is the inverse.

    Args:
        parameters: under their names, as `parameters.reply_parameters` returns them.
    """
    names = (*_TIMES, *_LOAD) if _LOAD[0] in parameters else _TIMES
    numbers = [float(parameters.get(name, 0)) * (1 if name in _COUNTS else MEGA) for name in names]
    text = ",".join([str(_whole(number) or "") for number in numbers])
    return {SHORT: text} | {name: value for name, value in parameters.items() if name not in names}


def lengthen_reply(parameters: Mapping[str, object]) -> Mapping[str, object]:
    """Return a reply's parameters under their names.

    Args:
        parameters: of a reply of any server; without a short one they stay as they are.

    Raises:
        WireError: INVALID_ARGUMENT if the short one has another form.
    """
    if SHORT not in parameters:
        return parameters
    value = parameters[SHORT]
    names = (*_TIMES, *_LOAD) if isinstance(value, str) and value.count(",") >= len(_TIMES) else _TIMES
    fields = _fields(value, len(names), ", ".join(names))
    numbers = {
        name: _number(field or "0") / (1 if name in _COUNTS else MEGA)
        for name, field in zip(names, fields, strict=True)
    }
    return {name: other for name, other in parameters.items() if name != SHORT} | numbers


def _fields(value: object, count: int, expected: str) -> Sequence[str]:
    fields = value.split(",", count - 1) if isinstance(value, str) else []
    if len(fields) != count:
        raise bad_request(f"parameter {SHORT}: expected {expected}, with commas between them")
    return fields


def _number(field: str) -> int:
    if len(field) > _MAX_DIGITS or not (field.isascii() and field.isdigit()):
        raise bad_request(f"parameter {SHORT}: expected a whole number of at most {_MAX_DIGITS} digits")
    return int(field)


def _whole(number: float) -> int:
    """Return the nearest whole number that a field can hold; 0 for NaN."""
    return 0 if math.isnan(number) else round(min(max(number, 0.0), 10.0**_MAX_DIGITS - 1e3))

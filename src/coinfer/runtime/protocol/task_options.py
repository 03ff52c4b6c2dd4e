"""What a device could do with a request, for a server that chooses among it: the parameters `options` and `choice`."""

import json
from typing import Annotated, Any, NamedTuple, TypeVar, cast

from pydantic import Field, TypeAdapter, ValidationError

from coinfer.addresses import AddressError, parse_address

MAX_OPTIONS, MAX_SERVERS = 256, 64
MAX_BYTES = 1 << 16
"""Longest text of one of the parameters."""
ON_DEVICE = "device"
"""Node of a choice that sends nothing."""
_DIGITS = 4
"""Of the numbers that are sent."""
_Name = Annotated[str, Field(min_length=1, max_length=256)]
_Names = Annotated[tuple[_Name, ...], Field(max_length=64)]
_Seconds = Annotated[float, Field(allow_inf_nan=False, ge=0, le=1e9)]


class TaskOption(NamedTuple):
    """One thing that a device could do: compute up to a cut and send that, or compute everything."""

    cut: Annotated[_Names, Field(min_length=1)]
    """Tensors that would be sent; the outputs if nothing would."""
    device_s: _Seconds
    """Time until the device has computed and encoded them, what waits there before it included."""
    upload_bits: Annotated[float, Field(allow_inf_nan=False, ge=0, le=1e15)]
    """0 if nothing would be sent."""
    server_s: Annotated[tuple[_Seconds | None, ...], Field(max_length=MAX_SERVERS)] = ()
    """Time of each server for the rest, as the device believes; None for one that cannot do it."""
    outputs: _Names = ()
    """Of the rest; empty for those of the request."""
    accuracy: Annotated[float, Field(allow_inf_nan=False, ge=0, le=1)] = 1.0


class ReachableServer(NamedTuple):
    """A server that a device could send to, and the link there."""

    node: _Name
    """`host:port`."""
    rate_bps: Annotated[float, Field(allow_inf_nan=False, gt=0, le=1e15)]
    round_trip_s: _Seconds
    wait_s: _Seconds = 0.0
    """Until the link has carried what was sent before."""


class TaskOptions(NamedTuple):
    """Everything that a device could do with one request."""

    options: Annotated[tuple[TaskOption, ...], Field(min_length=1, max_length=MAX_OPTIONS)]
    servers: Annotated[tuple[ReachableServer, ...], Field(min_length=1, max_length=MAX_SERVERS)]


class Choice(NamedTuple):
    """What a server has chosen for a device."""

    option: Annotated[int, Field(ge=0, lt=MAX_OPTIONS)]
    """Index into the options."""
    node: _Name
    """Address of one of the servers, or `device`."""
    policy: _Name = ""
    """What decided."""


Value = TypeVar("Value", TaskOptions, Choice)
_OPTIONS, _CHOICE = TypeAdapter(TaskOptions), TypeAdapter(Choice)


def options_json(options: TaskOptions) -> str:
    """Return options in the form of the parameter `options`: rows as lists, numbers with four digits.

    Args:
        options: what is as usual at the end of a row is left out.
    """
    rows, servers = [_row(option) for option in options.options], [_row(server) for server in options.servers]
    return json.dumps({"options": rows, "servers": servers}, separators=(",", ":"), allow_nan=False)


def parse_options(text: str) -> TaskOptions:
    """Return the options of the parameter `options`, with their addresses in one form.

    Args:
        text: a JSON object of options and servers; each row of them is an object, or a list in the order of the fields.

    Raises:
        ValueError: if they are none; the message says what is wrong, in one line.
    """
    found = _parse(_OPTIONS, text)
    try:
        servers = tuple(server._replace(node=str(parse_address(server.node, "node"))) for server in found.servers)
    except AddressError as error:
        raise ValueError(str(error)) from None
    if len({server.node for server in servers}) < len(servers):
        raise ValueError("a server is named twice")
    for i, option in enumerate(found.options):
        if option.upload_bits > 0 and len(option.server_s) != len(servers):
            raise ValueError(f"option {i}: {len(option.server_s)} times server_s for {len(servers)} servers")
    return TaskOptions(found.options, servers)


def choice_json(choice: Choice) -> str:
    """Return a choice in the form of the parameter `choice`; `parse_choice` is the inverse.

    Args:
        choice: of a server.
    """
    return json.dumps(choice._asdict())


def parse_choice(text: str) -> Choice:
    """Return the choice of the parameter `choice`.

    Args:
        text: a JSON object of option, node and policy.

    Raises:
        ValueError: if it is none; the message says what is wrong, in one line.
    """
    return _parse(_CHOICE, text)


def _row(fields: TaskOption | ReachableServer) -> list[Any]:
    row, usual = list[Any](fields), fields._field_defaults
    while fields._fields[len(row) - 1] in usual and row[-1] == usual[fields._fields[len(row) - 1]]:
        row.pop()
    return [_rounded(value) for value in row]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        rounded = float(f"{value:.{_DIGITS}g}")
        return int(rounded) if rounded.is_integer() else rounded
    return [_rounded(one) for one in cast(tuple[Any, ...], value)] if isinstance(value, tuple) else value


def _parse(adapter: "TypeAdapter[Value]", text: str) -> Value:
    if len(text) > MAX_BYTES:
        raise ValueError(f"{len(text)} characters; expected at most {MAX_BYTES}")
    try:
        return adapter.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}"[:300] if place else first["msg"][:300]) from None

"""Kinds of values in a scenario, each with its range and the words for an error."""

import math
from collections.abc import Callable
from typing import Annotated, TypeGuard

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from coinfer.errors import short_repr
from coinfer.units import WIRE_BITS, WIRE_BITS_TEXT


def wrong_value(value: object, expected: str) -> PydanticCustomError:
    """Return the error for a value that is not allowed.

    Args:
        value: as it was read.
        expected: what is allowed, in words.
    """
    return PydanticCustomError(
        "wrong_value", "got {got}, expected {expected}", {"got": display_value(value), "expected": expected}
    )


def display_value(value: object) -> str:
    """Return a value as a person wrote it.

    Args:
        value: as it was read from YAML.
    """
    if value is None:
        return "nothing"
    if isinstance(value, dict | list):
        return f"a {'mapping' if isinstance(value, dict) else 'list'}"
    return str(value).lower() if isinstance(value, bool) else short_repr(value)


class Spec(BaseModel):
    """A mapping whose keys are all known."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: object) -> object:
        if isinstance(data, cls):
            return data
        keys = list(cls.model_fields)
        if not isinstance(data, dict):
            raise wrong_value(data, f"a mapping with the keys {', '.join(keys)}")
        unknown = [key for key in data if key not in keys]
        if unknown:
            context = {"key": unknown[0], "known": ", ".join(keys)}
            raise PydanticCustomError("unknown_key", "unknown key; expected one of {known}", context)
        return data


def _checked(check: Callable[[object], bool], expected: str, convert: Callable[..., object]) -> BeforeValidator:
    def validate(value: object) -> object:
        try:
            good = check(value)
        except (TypeError, ValueError, OverflowError):
            good = False
        if not good:
            raise wrong_value(value, expected)
        return convert(value)

    return BeforeValidator(validate)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(float(value))


def real(unit: str, low: float, high: float, above: bool = False) -> BeforeValidator:
    """Return the check of a finite number.

    Args:
        unit: for the error; empty for none.
        low: smallest value.
        high: largest value.
        above: leave out `low` itself.
    """
    start = f"above {low:g} and at most {high:g}" if above else f"from {low:g} to {high:g}"
    expected = f"a number {start}" + (f" ({unit})" if unit else "")
    return _checked(lambda v: _is_number(v) and (low < v if above else low <= v) and v <= high, expected, float)


def integer(low: int, high: int) -> BeforeValidator:
    """Return the check of a whole number.

    Args:
        low: smallest value.
        high: largest value.
    """
    expected = f"a whole number from {low} to {high}"
    return _checked(lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high, expected, int)


def one_of(*words: str) -> BeforeValidator:
    """Return the check of a word out of a few.

    Args:
        words: that are allowed.
    """
    return _checked(lambda v: v in words, f"one of {', '.join(words)}", str)


def list_of(at_most: int) -> BeforeValidator:
    """Return the check of a list; a value that is no list becomes a list of one.

    Args:
        at_most: items of the list; it has at least one.
    """
    expected = f"a value, or a list of 1 to {at_most} values"
    return _checked(
        lambda v: v is not None and (not isinstance(v, list | tuple) or 0 < len(v) <= at_most),
        expected,
        lambda v: tuple(v) if isinstance(v, list | tuple) else (v,),
    )


Text = Annotated[
    str, _checked(lambda v: isinstance(v, str) and 0 < len(v) <= 1000 and v.isprintable(), "a line of text", str)
]
Flag = Annotated[bool, _checked(lambda v: isinstance(v, bool), "true or false", bool)]
Seconds = Annotated[float, real("seconds", 0, 1e6, above=True)]
SecondsOrNone = Annotated[float, real("seconds", 0, 1e6)]
Rate = Annotated[float, real("bits per second", 0, 1e13, above=True)]
Share = Annotated[float, real("", 0, 1)]
Positive = Annotated[float, real("", 0, 1e18, above=True)]
Watts = Annotated[float, real("watts", 0, 1e6)]
Joules = Annotated[float, real("joules", 0, 1e12)]
Metres = Annotated[float, real("metres", 0, 1e6, above=True)]
Hertz = Annotated[float, real("hertz", 0, 1e12, above=True)]
Capacitance = Annotated[float, real("joule s^2 per cycle^3", 0, 1, above=True)]
Fraction = Annotated[float, real("", 0, 0.999)]
Count = Annotated[int, integer(1, 1_000_000)]
BitWidth = Annotated[int, _checked(lambda v: v in WIRE_BITS, f"one of {WIRE_BITS_TEXT} bits per element", int)]


def _bit_key(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 4 else value


BitKey = Annotated[BitWidth, BeforeValidator(_bit_key)]

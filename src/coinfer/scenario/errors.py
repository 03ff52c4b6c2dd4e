"""What is said to a person whose scenario does not work."""

from coinfer.types import UserError


class ScenarioError(UserError):
    """A scenario that cannot be read or makes no sense; one line that names file, line, key, what was found and what is
    expected."""


def shown(value: object, limit: int = 60) -> str:
    """A value from a file as it may stand in a message: on one line, printable, not too long."""
    text = repr(value) if isinstance(value, str) else str(value)
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= limit else text[: limit - 3] + "..."

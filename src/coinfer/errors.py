"""Errors for people: one line that says what was wrong, where, and how to mend it."""


class UserError(ValueError):
    """Something that a person can mend; the message is one line that says what was wrong, where, and what is expected.

    The command line shows it without a traceback."""


class TrainingError(UserError):
    """A training that cannot begin or go on; the message is one line for a person."""


class ScenarioError(UserError):
    """A scenario that cannot be read or makes no sense; one line that names file, line, key, what was found and what is
    expected."""


def short_repr(value: object, limit: int = 60) -> str:
    """A value from a file as it may stand in a message: on one line, printable, not too long."""
    return printable(repr(value) if isinstance(value, str) else str(value), limit)


def printable(text: str, limit: int = 60) -> str:
    """Return the text on one line, printable, not too long."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= limit else text[: limit - 3] + "..."

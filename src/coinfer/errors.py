"""Errors for people: one line that says what was wrong, where, and how to mend it."""


class UserError(ValueError):
    """A mistake that a person can mend; the message is one line that says what was wrong, where, and what is expected.

    The command line shows it without a traceback.
    """


class TrainingError(UserError):
    """A training that cannot begin or continue; the message is one line for a person."""


class ScenarioError(UserError):
    """A scenario that cannot be read or makes no sense.

    The message is one line that names file, line, key, the value, and what is expected.
    """


def short_repr(value: object, limit: int = 60) -> str:
    """Return a value as it may stand in a message: on one line, printable and short.

    Args:
        value: a text is quoted, so that its ends show.
        limit: characters of the result at most.
    """
    return printable(repr(value) if isinstance(value, str) else str(value), limit)


def printable(text: str, limit: int = 60) -> str:
    """Return a text on one line, printable and short.

    Args:
        text: from a file, a client or a library; every other character becomes a space.
        limit: characters of the result at most; a longer text ends in "...".
    """
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= limit else text[: limit - 3] + "..."

"""What is said to a person whose scenario does not work."""

from coinfer.errors import UserError


class ScenarioError(UserError):
    """A scenario that cannot be read or makes no sense; one line that names file, line, key, what was found and what is
    expected."""

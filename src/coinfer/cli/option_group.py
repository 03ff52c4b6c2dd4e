"""Options that several commands share as a group, which a command gets as one argument."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

Command = Callable[..., None]


def with_group(
    name: str, parameters: Mapping[str, tuple[Any, Any]], parse: Callable[..., object]
) -> Callable[[Command], Command]:
    """Return a decorator of commands that gives them a group of options.

    Args:
        name: of the command's parameter that gets what is parsed.
        parameters: annotation and default of each option, by name.
        parse: makes one value of the options, which it takes by name.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command)
        own = [one for one in signature.parameters.values() if one.name != name]
        added = [
            inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for option, (annotation, default) in parameters.items()
        ]

        @functools.wraps(command)
        def wrapped(*args: object, **options: Any) -> None:
            said = {option: options.pop(option) for option in parameters}
            command(*args, **{name: parse(**said)}, **options)

        annotations = {parameter.name: parameter.annotation for parameter in (*own, *added)}
        wrapped.__annotations__ = annotations | {"return": None}
        wrapped.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        return wrapped

    return decorate

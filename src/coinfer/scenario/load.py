"""Read a scenario: a file or a preset, with some values changed; an error is one clear line."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from coinfer.errors import ScenarioError, short_repr
from coinfer.resources import SCENARIOS
from coinfer.scenario.conditions import contradictions
from coinfer.scenario.fields import display_value
from coinfer.scenario.spec import ADAPTER, AnyScenario
from coinfer.scenario.yaml_file import Document, Key, parse, read_text

PRESETS = (
    "cdo-dsac", "mtl-a3c", "sacd", "sacd-cifar", "grle", "grle-s2", "grle-s3", "grle-s4", "droo", "droo-weights",
    "droo-on-off", "droo-queues", "city", "campus", "gpu-edge", "many-models",
    "tight-memory",
)  # fmt: skip
"""The papers' worlds and some of our own, as files that a user copies and edits."""
BASE = "base"
"""Key of a file that changes some keys of another scenario, and states nothing else."""


class Source(NamedTuple):
    """Where the values of a scenario come from."""

    name: str
    """The file, or the preset's name."""
    folder: Path | None
    """Where files that the scenario names are looked for first."""
    lines: Mapping[Key, int]

    def error(self, key: Key, message: str) -> ScenarioError:
        """Return an error about one of the values.

        Args:
            key: of the value; the nearest key above it that has a line gives the line.
            message: what is wrong, and what is expected.
        """
        return _error(self.name, self.lines, key, message)


class Scenario(NamedTuple):
    """A scenario, and where its values come from."""

    spec: AnyScenario
    source: Source


def load(name: str | Path, changes: Mapping[str, object] | None = None) -> Scenario:
    """Return a preset by its name, or a file by its path.

    Args:
        name: of a preset, or path of a file.
        changes: values to put in, by dotted key: `{"arrivals.mean": 1.2, "servers.0.capacity": 20}`.

    Raises:
        ScenarioError: one line that names file, line and key, the value and what is expected.
    """
    if str(name) in PRESETS:
        return read(preset_text(str(name)), str(name), None, changes)
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"} and not path.exists():
        near = difflib.get_close_matches(str(name), PRESETS, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; presets are {', '.join(PRESETS)}"
        raise ScenarioError(f"no scenario {short_repr(str(name))}: neither a file nor a preset{hint}")
    return read(read_text(path), str(path), path.parent, changes)


def preset_text(name: str) -> str:
    """Return the file of a preset, comments included.

    Args:
        name: one of `PRESETS`.

    Raises:
        ScenarioError: if there is no such preset.
    """
    if name not in PRESETS:
        raise ScenarioError(f"no preset {short_repr(name)}; there are {', '.join(PRESETS)}")
    return (SCENARIOS / f"{name}.yaml").read_text(encoding="utf-8")


def read(text: str, source: str, folder: Path | None = None, changes: Mapping[str, object] | None = None) -> Scenario:
    """Return a scenario from its text.

    Args:
        text: YAML.
        source: name of file or preset, for errors.
        folder: where files that the scenario names are looked for first.
        changes: values to put in, by dotted key (`load`).

    Raises:
        ScenarioError: one line that names file, line and key, the value and what is expected.
    """
    document = _with_base(parse(text, source), source, folder)
    for key, value in (changes or {}).items():
        _change(document.values, key, value, source)
    try:
        spec: AnyScenario = ADAPTER.validate_python(document.values)
    except ValidationError as error:
        raise _first_error(error, document, source) from None
    scenario = Scenario(spec, Source(source, folder, document.lines))
    for key, message in contradictions(spec):
        raise scenario.source.error(key, message)
    return scenario


def parse_changes(texts: Sequence[str]) -> dict[str, object]:
    """Return the changes that `KEY=VALUE` on a command line state, for `load`.

    Args:
        texts: each value is read as in a file; an empty one means none.

    Raises:
        ScenarioError: if a text has no `=`, or its value is no YAML.
    """
    changes: dict[str, object] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ScenarioError(f"--set {short_repr(text)}: expected KEY=VALUE, such as arrivals.mean=1.2")
        changes[key] = parse(value, f"--set {key}").values if value.strip() else None
    return changes


def _with_base(document: Document, source: str, folder: Path | None) -> Document:
    """Return the document with the keys that only its base has; lines are those of its own keys."""
    own = document.values
    if not isinstance(own, dict) or BASE not in own:
        return document
    name = own[BASE]
    if not isinstance(name, str):
        raise _error(source, document.lines, (BASE,), f"got {display_value(name)}, expected a preset or a file")
    text = preset_text(name) if name in PRESETS else read_text((folder or Path()) / name)
    base = parse(text, name).values
    if not isinstance(base, dict) or BASE in base:
        raise _error(source, document.lines, (BASE,), f"{name} must hold a whole scenario, without a base of its own")
    return Document({key: value for key, value in (base | own).items() if key != BASE}, document.lines)


def _change(values: object, dotted: str, new: object, source: str) -> None:
    """Put a value in; the mappings and lists above it must exist."""
    *above, last = dotted.split(".")
    place = values
    for part in above:
        place = _child(place, _index(place, part))
    key = _index(place, last)
    if isinstance(place, list) and isinstance(key, int) and _contains(place, key):
        place[key] = new
        return
    if not isinstance(place, dict):
        raise ScenarioError(f"{source}: cannot change {short_repr(dotted)}: there is no such key")
    place[key] = new


def _index(place: object, part: str) -> str | int:
    """Return a part of a dotted key as an index if it is one into a list; a mapping's keys are all texts."""
    return int(part) if isinstance(place, list) and part.isdecimal() else part


def _child(place: object, part: str | int) -> object:
    if isinstance(place, list) and isinstance(part, int) and part < len(place):
        return place[part]
    return place.get(part) if isinstance(place, dict) else None


def _contains(place: object, part: str | int) -> bool:
    """Return whether a mapping or a list has an entry for this key or index, even an empty one."""
    return (isinstance(place, dict) and part in place) or (
        isinstance(place, list) and isinstance(part, int) and part < len(place)
    )


def _error(source: str, lines: Mapping[Key, int], key: Key, message: str) -> ScenarioError:
    known = key
    while known and known not in lines:
        known = known[:-1]
    line = f":{lines[known]}" if known in lines else ""
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{display_key(part)}" for part in key).lstrip(".")
    return ScenarioError(f"{source}{line}: {name + ': ' if name else ''}{message}")


def display_key(key: str) -> str:
    """Return a key as it may stand in a message.

    Args:
        key: from a file, so it may hold anything.
    """
    return key if key.replace("_", "").replace("-", "").isalnum() and len(key) <= 60 else short_repr(key)


def _first_error(error: ValidationError, document: Document, source: str) -> ScenarioError:
    problems = error.errors(include_url=False)
    first = problems[0]
    key, message = _key(first["loc"], document.values, first["type"] == "missing"), _message(first)
    if first["type"] == "unknown_key":
        context = first.get("ctx", {})
        unknown, known = context["key"], context["known"].split(", ")
        near = difflib.get_close_matches(unknown, known, 1)
        key = (*key, unknown)
        message = (
            f"unknown key; did you mean {near[0]}?" if near else f"unknown key; expected one of {', '.join(known)}"
        )
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return _error(source, document.lines, key, message + more)


def _key(location: Sequence[str | int], values: object, is_missing: bool) -> Key:
    """Return where an error lies in the file; pydantic's location also names the kinds of alternatives."""
    key: list[str | int] = []
    kind_is_due = True
    for part in location:
        if kind_is_due and isinstance(values, dict) and part in (values.get("environment"), values.get("kind")):
            kind_is_due = False
        elif _contains(values, part):
            key, values, kind_is_due = [*key, part], _child(values, part), True
    return (*key, location[-1]) if is_missing else tuple(key)


def _message(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "missing":
            return "missing; this key is needed"
        case "union_tag_not_found":
            return f"{context['discriminator'].replace(chr(39), '')} is missing; it says which kind this is"
        case "union_tag_invalid":
            expected = context["expected_tags"].replace("'", "")
            return f"{context['discriminator']} is {short_repr(context['tag'])}, expected one of {expected}".replace(
                "'", "", 2
            )
        case "wrong_value":
            return error["msg"]
        case "model_attributes_type" | "dict_type":
            return f"got {display_value(error['input'])}, expected a mapping"
        case _:
            return f"got {display_value(error['input'])}: {short_repr(error['msg'], 200)}"

"""Reading a scenario: a file or a preset, values changed from outside, and one clear line where something is wrong."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from coinfer.errors import shown
from coinfer.resources import SCENARIOS
from coinfer.scenario.errors import ScenarioError
from coinfer.scenario.fields import said
from coinfer.scenario.spec import ADAPTER, AnyScenario
from coinfer.scenario.yaml_file import Document, Key, parse, read_text

PRESETS = ("cdo-dsac", "mtl-a3c", "sacd", "sacd-cifar", "grle", "droo", "city", "campus")
"""The papers' worlds and two of our own, as files that a user copies and edits."""

_MOST_LINKS = 20_000_000
"""Beyond it a world would not fit into memory."""


class Source(NamedTuple):
    """Where the values of a scenario stand."""

    name: str
    """The file, or the preset's name."""
    folder: Path | None
    """Where files that the scenario names are looked for first."""
    lines: Mapping[Key, int]

    def error(self, key: Key, message: str) -> ScenarioError:
        """Return an error about one of the values."""
        return _error(self.name, self.lines, key, message)


class Scenario(NamedTuple):
    """A scenario that was read, and where its values stand."""

    spec: AnyScenario
    source: Source


def load(name: str | Path, changes: Mapping[str, Any] | None = None) -> Scenario:
    """A preset by its name, or a file by its path.

    Args:
        changes: values to put in, by dotted key: `{"arrivals.mean": 1.2, "servers.0.capacity": 20}`.

    Raises:
        ScenarioError: one line that names file, line and key, what was found and what is expected.
    """
    if str(name) in PRESETS:
        return read(preset_text(str(name)), str(name), None, changes)
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"} and not path.exists():
        near = difflib.get_close_matches(str(name), PRESETS, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; presets are {', '.join(PRESETS)}"
        raise ScenarioError(f"no scenario {shown(str(name))}: neither a file nor a preset{hint}")
    return read(read_text(path), str(path), path.parent, changes)


def preset_text(name: str) -> str:
    """The file of a preset, comments included.

    Raises:
        ScenarioError: where there is none of this name.
    """
    if name not in PRESETS:
        raise ScenarioError(f"no preset {shown(name)}; there are {', '.join(PRESETS)}")
    return (SCENARIOS / f"{name}.yaml").read_text(encoding="utf-8")


def read(text: str, source: str, folder: Path | None = None, changes: Mapping[str, Any] | None = None) -> Scenario:
    """A scenario from its text; arguments and errors as `load`."""
    document = parse(text, source)
    for key, value in (changes or {}).items():
        _change(document.values, key, value, source)
    try:
        spec: AnyScenario = ADAPTER.validate_python(document.values)
    except ValidationError as error:
        raise _first_error(error, document, source) from None
    scenario = Scenario(spec, Source(source, folder, document.lines))
    for key, message in _conditions(spec):
        raise scenario.source.error(key, message)
    return scenario


def parse_changes(texts: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` from a command line, for `load`; values are read as in a file.

    Raises:
        ScenarioError: where there is no `=`, or the value is no YAML.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ScenarioError(f"--set {shown(text)}: expected KEY=VALUE, such as arrivals.mean=1.2")
        found[key] = parse(value, f"--set {key}").values if value.strip() else None
    return found


def _change(values: Any, dotted: str, new: Any, source: str) -> None:
    """Puts a value in; the mappings and lists above it must be there."""
    *above, last = (int(part) if part.isdigit() else part for part in dotted.split("."))
    place = values
    for part in above:
        place = _inside(place, part)
    is_key = isinstance(place, dict) and isinstance(last, str)
    if not is_key and _inside(place, last) is None:
        raise ScenarioError(f"{source}: cannot change {shown(dotted)}: there is no such key")
    place[last] = new


def _inside(place: Any, part: str | int) -> Any:
    if isinstance(place, list) and isinstance(part, int) and part < len(place):
        return place[part]
    return place.get(part) if isinstance(place, dict) else None


def _names(place: Any, part: str | int) -> bool:
    """Whether a mapping or a list holds something there, be it nothing."""
    return (isinstance(place, dict) and part in place) or (
        isinstance(place, list) and isinstance(part, int) and part < len(place)
    )


def _error(source: str, lines: Mapping[Key, int], key: Key, message: str) -> ScenarioError:
    known = key
    while known and known not in lines:
        known = known[:-1]
    line = f":{lines[known]}" if known in lines else ""
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{shown_key(part)}" for part in key).lstrip(".")
    return ScenarioError(f"{source}{line}: {name + ': ' if name else ''}{message}")


def shown_key(key: str) -> str:
    """A key as it may stand in a message."""
    return key if key.replace("_", "").replace("-", "").isalnum() and len(key) <= 60 else shown(key)


def _first_error(error: ValidationError, document: Document, source: str) -> ScenarioError:
    found = error.errors(include_url=False)
    first = found[0]
    key, message = _key(first["loc"], document.values, first["type"] == "missing"), _message(first)
    if first["type"] == "unknown_key":
        context = first.get("ctx", {})
        unknown, known = context["key"], context["known"].split(", ")
        near = difflib.get_close_matches(unknown, known, 1)
        key = (*key, unknown)
        message = (
            f"unknown key; did you mean {near[0]}?" if near else f"unknown key; expected one of {', '.join(known)}"
        )
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return _error(source, document.lines, key, message + more)


def _key(location: Sequence[str | int], values: Any, is_missing: bool) -> Key:
    """Where an error stands in the file; pydantic's location also names the kinds of alternatives."""
    key: list[str | int] = []
    kind_is_due = True
    for part in location:
        if kind_is_due and isinstance(values, dict) and part in (values.get("environment"), values.get("kind")):
            kind_is_due = False
        elif _names(values, part):
            key, values, kind_is_due = [*key, part], values[part], True
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
            return f"{context['discriminator']} is {shown(context['tag'])}, expected one of {expected}".replace(
                "'", "", 2
            )
        case "wrong_value":
            return error["msg"]
        case "model_attributes_type" | "dict_type":
            return f"got {said(error['input'])}, expected a mapping"
        case _:
            return f"got {said(error['input'])}: {shown(error['msg'], 200)}"


def _conditions(spec: AnyScenario) -> Sequence[tuple[Key, str]]:
    """What is wrong between values that are right one by one."""
    return [] if spec.environment == "wireless-power" else [*_between(spec)]


def _between(spec: Any) -> Any:
    devices = sum(device.count for device in spec.devices)
    servers = sum(server.count for server in spec.servers)
    for key, found, most in (("devices", devices, 1_000_000), ("servers", servers, 1000)):
        if found > most:
            yield (key,), f"got {found:,}, expected at most {most:,}"
    links = devices * servers * getattr(spec.links, "placements", 1)
    if links > _MOST_LINKS:
        yield ("links",), f"devices x servers x placements are {links:,}, expected at most {_MOST_LINKS:,}"
    for kind in ("devices", "servers"):
        for i, computer in enumerate(getattr(spec, kind)):
            yield from _computer((kind, i), computer)
    if spec.distinct_devices and spec.tasks_per_slot > devices:
        yield (
            ("tasks_per_slot",),
            f"got {spec.tasks_per_slot}, expected at most {devices}, as many as devices, which are distinct",
        )
    if spec.arrivals.kind == "fixed" and spec.arrivals.tasks > spec.tasks_per_slot:
        yield (
            ("arrivals", "tasks"),
            f"got {spec.arrivals.tasks}, expected at most tasks_per_slot, {spec.tasks_per_slot}",
        )
    for i, model in enumerate(spec.models):
        yield from _model(("models", i), model, spec)
    if spec.links.kind in {"uniform", "walk"} and spec.links.low_bps > spec.links.high_bps:
        yield ("links", "low_bps"), f"got {spec.links.low_bps:g}, expected at most high_bps, {spec.links.high_bps:g}"
    if spec.links.kind == "radio":
        for i, device in enumerate(spec.devices):
            if not device.transmit_power_w:
                yield ("devices", i, "transmit_power_w"), "missing or 0; a radio link needs the power of its sender"
        if spec.links.nearest_m >= spec.links.diameter_m / 2:
            yield (
                ("links", "nearest_m"),
                f"got {spec.links.nearest_m:g}, expected below half the diameter, {spec.links.diameter_m / 2:g}",
            )
    if spec.server_share and spec.server_share.low > spec.server_share.high:
        yield (
            ("server_share", "low"),
            f"got {spec.server_share.low:g}, expected at most high, {spec.server_share.high:g}",
        )
    if spec.environment == "blocks":
        for i, server in enumerate(spec.servers):
            if server.capacity is not None:
                yield ("servers", i, "capacity"), "got one; in blocks servers queue without limit, leave it away"
        if spec.refused == "drop":
            yield ("refused",), "got drop; in blocks no task is refused"


def _computer(key: Key, computer: Any) -> Any:
    speeds = ("catalogue", "slowdown", "flop_per_s", "profiles")
    given = [name for name in speeds if getattr(computer, name) is not None]
    if len(given) != 1:
        yield (key, f"has {' and '.join(given) or 'no speed'}; expected exactly one of {', '.join(speeds)}")
    if key[0] == "devices" and (computer.capacitance is None) != (computer.freq_hz is None):
        yield (key, "capacitance and freq_hz belong together")
    if key[0] == "devices" and computer.capacitance is not None and computer.compute_power_w:
        yield ((*key, "compute_power_w"), "expected either this or capacitance with freq_hz")


def _model(key: Key, model: Any, spec: Any) -> Any:
    stated = {"accuracy", "accuracy_drop"} & model.model_fields_set
    if model.accuracy_table is not None and stated:
        yield (*key, min(stated)), "expected either this or accuracy_table"
    if model.accuracy_table is None and len(model.accuracy) != len(model.exits or (1,)):
        wanted = (
            f"{len(model.exits)} values, one for each exit"
            if model.exits
            else "one value, as only the last exit answers"
        )
        yield (*key, "accuracy"), f"got {len(model.accuracy)} values, expected {wanted}"
    if model.exits and list(model.exits) != sorted(set(model.exits)):
        yield (*key, "exits"), "expected rising numbers"
    if model.deadline_s and model.deadline_s[0] > model.deadline_s[-1]:
        yield (*key, "deadline_s"), "expected [least, greatest]"
    if model.deadline_s and model.deadline_factor:
        yield (*key, "deadline_factor"), "expected either this or deadline_s"
    if spec.environment == "blocks" and model.exits and len(model.exits) > 1:
        yield (*key, "exits"), "expected at most one exit; blocks do not choose"
    if spec.refused == "drop" and not (model.deadline_s or model.deadline_factor):
        yield key, "needs deadline_s or deadline_factor, as refused tasks are lost and count as waiting until then"

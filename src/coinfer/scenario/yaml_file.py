"""YAML as scenarios use it: mappings, lists, numbers, words; every value has the line on which it stands.

It is stricter than YAML, so that a slip of the pen is an error and not interpreted: a key may appear once, and tags and
aliases are refused. Numbers are read as people write them: `1e9` is one, `no` is a word.
"""

import re
from pathlib import Path
from typing import NamedTuple

import yaml

from coinfer.errors import ScenarioError, short_repr

Key = tuple[str | int, ...]
"""Path of a value in the document: `("servers", 0, "capacity")`."""

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
_INTEGER = re.compile(r"[-+]?[0-9][0-9_]{0,30}")
_FLOAT = re.compile(r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)([eE][-+]?[0-9]{1,4})?")
_WORDS: dict[str, object] = {
    "": None, "~": None, "null": None, "true": True, "false": False, ".inf": float("inf"), "inf": float("inf"),
}  # fmt: skip
_PLAIN_TAGS = frozenset({f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "timestamp")})
_OTHER_TAGS = frozenset({f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "merge", "value")})


class Document(NamedTuple):
    """The values of a YAML text."""

    values: object
    lines: dict[Key, int]
    """Line of each key and list item, from 1."""


def read_text(path: Path) -> str:
    """Return the text of a file.

    Args:
        path: UTF-8, of at most `MAX_BYTES`.

    Raises:
        ScenarioError: if it cannot be read.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ScenarioError(f"{path}: {size} bytes; a scenario has at most {MAX_BYTES}")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ScenarioError(f"{path}: cannot read this scenario: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ScenarioError(f"{path}: not a text file (UTF-8 expected)") from None


def parse(text: str, source: str) -> Document:
    """Return a YAML document.

    Args:
        text: may come from anywhere; it cannot grow in memory or run code.
        source: name of the text, for errors.

    Raises:
        ScenarioError: naming source and line.
    """
    try:
        alias = next((event for event in yaml.parse(text, yaml.SafeLoader) if isinstance(event, yaml.AliasEvent)), None)
        if alias is not None:  # an innocent-looking file may grow to gigabytes with them
            line = alias.start_mark.line + 1
            raise ScenarioError(f"{source}:{line}: aliases (*) are not read here; write the values out")
        root = yaml.compose(text, yaml.SafeLoader)
    except ScenarioError:
        raise
    except yaml.MarkedYAMLError as error:
        raise ScenarioError(_not_yaml(source, error)) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ScenarioError(f"{source}: not YAML: {short_repr(str(error).splitlines()[0])}") from None
    except RecursionError:
        raise ScenarioError(f"{source}: nested too deeply; a scenario has at most {MAX_DEPTH} levels") from None
    if root is None:
        raise ScenarioError(f"{source}: empty; `coinfer scenario show campus` prints an example")
    reader = _Reader(source)
    return Document(reader.value(root, ()), reader.lines)


def _not_yaml(source: str, error: yaml.MarkedYAMLError) -> str:
    """Return where the parser failed, and where the part that it was in began: a missing bracket shows late."""
    at, begin = error.problem_mark, error.context_mark
    line = f":{at.line + 1}" if at else ""
    since = f", in what begins on line {begin.line + 1}" if at and begin and begin.line != at.line else ""
    return f"{source}{line}: not YAML: {short_repr(error.problem or error.context or 'malformed')}{since}"


class _Reader:
    """Turns YAML nodes into values and notes their lines."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: dict[Key, int] = {}

    def value(self, node: yaml.Node, key: Key) -> object:
        self.lines.setdefault(key, node.start_mark.line + 1)
        if len(key) > MAX_DEPTH:
            raise self.error(node, f"nested too deeply; a scenario has at most {MAX_DEPTH} levels")
        if node.tag not in _PLAIN_TAGS | _OTHER_TAGS:
            raise self.error(node, f"tag {short_repr(node.tag)} is not read here; write a plain value")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*key, i)) for i, item in enumerate(node.value)]
        return self.scalar(node)

    def mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, object]:
        values: dict[str, object] = {}
        for name_node, value_node in node.value:
            name = name_node.value if isinstance(name_node, yaml.ScalarNode) else None
            if not isinstance(name, str):
                raise self.error(name_node, "a key must be a word")
            if name in values:
                raise self.error(name_node, f"key {short_repr(name)} stands here twice")
            self.lines[(*key, name)] = name_node.start_mark.line + 1
            values[name] = self.value(value_node, (*key, name))
        return values

    def scalar(self, node: yaml.Node) -> object:
        text = node.value
        if getattr(node, "style", None):  # quoted
            return text
        if text.lower() in _WORDS:
            return _WORDS[text.lower()]
        if _INTEGER.fullmatch(text):
            return int(text.replace("_", ""))
        if _FLOAT.fullmatch(text):
            return float(text.replace("_", ""))
        return text

    def error(self, node: yaml.Node, message: str) -> ScenarioError:
        return ScenarioError(f"{self.source}:{node.start_mark.line + 1}: {message}")

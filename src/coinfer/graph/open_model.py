"""Opens any network by name or path: one that is shipped with coinfer, or an ONNX file."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import onnx

from coinfer.graph.bottleneck import SUFFIX, with_bottleneck
from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx import validate
from coinfer.graph.onnx.axes import InputAxes, MissingSizeError, Shapes, plain, resolve
from coinfer.graph.onnx.limits import parse_limits
from coinfer.graph.onnx.load import declared_inputs, load
from coinfer.graph.onnx.sandbox import try_model
from coinfer.graph.pictures import NO_SETTINGS, PictureSettings, picture_sizes, settings_beside, with_pictures
from coinfer.graph.zoo import early_exits, networks, pretrained


def open_model(
    spec: str | Path,
    shapes: Shapes = MappingProxyType({}),
    pictures: PictureSettings = NO_SETTINGS,
    limits: Mapping[str, int | str] = MappingProxyType({}),
    *,
    bottleneck: bool = True,
) -> ModelGraph:
    """Return a network of the zoo (plain, with exits, or pretrained), or the network of an ONNX file.

    A file first runs once in a sandbox (`onnx.sandbox`). If `NAME.bottleneck.onnx` lies beside `NAME.onnx`, the network
    comes with this bottleneck.

    Args:
        spec: name or path; names of the zoo take precedence over files.
        shapes: sizes of axes that the file leaves free: `{"height": 320}` by name of an axis, `{"images": (1, 3, 320,
            320)}` by name of an input. A number fixes the axis; `"16..512"` keeps it free within this range, `"1.."`
            from 1 on. A batch that is not named stays free.
        pictures: how it takes pictures; what is not said here is taken from `FILE.input.yaml` beside the file, and from
            its metadata. Their size is the size of a picture input that the file leaves free.
        limits: other values for limits of what a file may take, by name (`onnx.limits.Limits`); for files that you
            trust.
        bottleneck: whether the network comes with the bottleneck beside its file.

    Raises:
        GraphError: if there is neither such a name nor such a file, the file is refused, or it takes no such pictures.
    """
    path, shapes = Path(spec), plain(shapes, str(spec))
    built = _shipped(str(spec))
    if built is not None:
        if shapes:
            raise GraphError(f"{spec}: a network of the zoo has sizes of its own; --shape is for ONNX files")
        return with_pictures(built, pictures, f"{built.name}, picture options")
    if not path.exists():
        known = ", ".join(sorted({*networks.ZOO, *early_exits.EXITS, *pretrained.names()}))
        raise GraphError(f"no network {str(spec)!r}: neither a file nor one of the zoo: {known}")
    beside, where = settings_beside(path)
    shapes = _with_picture_sizes(path, shapes, beside, pictures)
    allowed = parse_limits(limits)
    try_model(path, shapes, allowed)
    graph = with_pictures(load(path, shapes, allowed), beside, where)
    graph = with_pictures(graph, pictures, f"{path}, picture options")
    file = path.parent / f"{path.stem}{SUFFIX}"
    if not bottleneck or not file.is_file() or path.name.endswith(SUFFIX):
        return graph
    try:
        try_model(file, {}, allowed)
        return with_bottleneck(graph, file)
    except GraphError as error:
        raise GraphError(f"{error}; train a bottleneck with `coinfer bottleneck train`, or remove this file") from None


class Declared(NamedTuple):
    """What the file of a network says of it before the free sizes are known."""

    name: str
    inputs: list[InputAxes]
    outputs: list[onnx.ValueInfoProto]
    missing: str
    """Which sizes are missing, and what to type."""


def declared_if_sizes_are_missing(
    spec: str | Path, shapes: Shapes = MappingProxyType({}), pictures: PictureSettings = NO_SETTINGS
) -> Declared | None:
    """Return what a file declares if `open_model` misses sizes of it; None if it does not, whatever else it misses.

    Args:
        spec: as for `open_model`.
        shapes: as for `open_model`.
        pictures: as for `open_model`.
    """
    path = Path(spec)
    if _shipped(str(spec)) is not None or not path.is_file():
        return None
    beside, _ = settings_beside(path)
    shapes = _with_picture_sizes(path, plain(shapes, str(spec)), beside, pictures)
    proto = validate.read_proto(path)
    inputs = declared_inputs(proto, str(path), shapes)
    try:
        resolve(inputs, shapes, str(path))
    except MissingSizeError as error:
        return Declared(path.stem, inputs, list(proto.graph.output), str(error))
    return None


def _with_picture_sizes(path: Path, shapes: Shapes, beside: PictureSettings, pictures: PictureSettings) -> Shapes:
    """Return the sizes with those of its pictures, as far as their size is said."""
    said = PictureSettings.model_validate(beside.given | pictures.given)
    return shapes if said.size is None else {**picture_sizes(validate.read_proto(path), said), **shapes}


def _shipped(name: str) -> ModelGraph | None:
    """Return the network of the zoo of this name, if there is one."""
    if name in networks.ZOO:
        return networks.build(name)
    if name in early_exits.EXITS:
        return early_exits.build(name)
    return pretrained.load_pretrained(name) if name in pretrained.names() else None

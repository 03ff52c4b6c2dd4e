"""How a network takes pictures: said by the metadata of its file, by a YAML file beside it, or by its user."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from coinfer.errors import printable, short_repr
from coinfer.graph.image_input import GREY, IMAGE_KEY, PER_BYTE, Colors, Fit, ImageInput, Layout, problem_of
from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.parts import Tensor

SUFFIX = ".input.yaml"
"""The file beside `net.onnx` that says how it takes pictures is `net.input.yaml`."""
_DTYPES = ("float32", "float16", "uint8")
_MAX_YAML_BYTES = 65_536


def _pair(value: object) -> object:
    return (value, value) if isinstance(value, int) else value


def _values(value: object) -> object:
    return (value,) if isinstance(value, int | float) else value


Side = Annotated[int, Field(ge=1, le=65_536)]
Values = Annotated[tuple[float, ...], BeforeValidator(_values), Field(min_length=1, max_length=3)]


class PictureSettings(BaseModel):
    """What is said about the pictures of a network; what is left out follows from its input, or is as usual."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: Annotated[tuple[Side, Side], BeforeValidator(_pair)] | None = None
    """Height and width; one number for both."""
    mean: Values | None = None
    """Of each channel, or one for all; 0 if not given."""
    std: Values | None = None
    """Of each channel, or one for all; 1 if not given."""
    scale: Annotated[float, Field(gt=0)] | None = None
    """Factor on the values of a pixel, 0 to 255; 1/255 if not given."""
    layout: Layout | None = None
    colors: Colors | None = None
    fit: Fit | None = None
    pad: Annotated[int, Field(ge=0, le=255)] | None = None
    input: str | None = None
    """Name of the input that takes the picture."""

    @property
    def given(self) -> dict[str, object]:
        """Return the settings that are given, by name."""
        return {name: value for name, value in self if value is not None}


NO_SETTINGS = PictureSettings()


def with_pictures(graph: ModelGraph, settings: PictureSettings, where: str) -> ModelGraph:
    """Return the network with what is said about its pictures; what is not said stays.

    Args:
        graph: the network.
        settings: without any, the network stays as it is.
        where: who says so, for the error.

    Raises:
        GraphError: if the settings do not fit the network.
    """
    if not settings.given:
        return graph
    known = {} if graph.image is None else _settings_of(graph.image, graph.inputs[0]).given
    merged = PictureSettings.model_validate(known | settings.given)
    return replace(graph, image=image_input(merged, [graph.tensors[name] for name in graph.inputs], where))


def image_input(settings: PictureSettings, inputs: Sequence[Tensor], where: str) -> ImageInput:
    """Return how a network takes pictures.

    Args:
        settings: what is said about it.
        inputs: of the network, at batch 1.
        where: who says so, for the error.

    Raises:
        GraphError: if the settings do not fit an input, or it is not clear which one.
    """
    tensor = _picture_tensor(settings.input, inputs, where)
    layout = settings.layout or ("nchw" if tensor.shape[1] in (1, 3) else "nhwc")
    channels, height, width = _axes(tensor.shape, layout)
    colors: Colors = settings.colors or ("gray" if channels == 1 else "rgb")
    scale = settings.scale or (1.0 if tensor.dtype == np.uint8 else PER_BYTE)
    count = 1 if colors == "gray" else 3
    mean, std = ((*values, *values[:1] * (count - 1)) if len(values) == 1 else values
                 for values in (settings.mean or (0.0,), settings.std or (1.0,)))  # fmt: skip
    pad = GREY if settings.pad is None else settings.pad
    name = "" if tensor.name == inputs[0].name else tensor.name
    fit = settings.fit or "crop"
    image = ImageInput(height, width, mean, std, scale, layout, colors, fit, pad, name, tensor.dtype.name)
    if problem := problem_of(image) or _misfit(image, settings, tensor):
        raise GraphError(f"{where}: {problem}")
    return image


def _picture_tensor(name: str | None, inputs: Sequence[Tensor], where: str) -> Tensor:
    """Return the input that takes pictures."""
    like = [tensor for tensor in inputs if len(tensor.shape) == 4 and {1, 3} & {tensor.shape[1], tensor.shape[3]}]
    shown = ", ".join(f"{tensor.name!r} {tensor.dtype} {list(tensor.shape)}" for tensor in inputs)
    if name is None:
        if len(like) != 1:
            problem = "several inputs could take pictures; name one as `input`" if like else "no input takes pictures"
            raise GraphError(f"{where}: {problem}; the network's inputs are {shown}")
        return like[0]
    found = next((tensor for tensor in like if tensor.name == name), None)
    if found is None:
        raise GraphError(f"{where}: input {name!r} takes no pictures; the network's inputs are {shown}")
    return found


def _axes(shape: Sequence[int], layout: Layout) -> tuple[int, int, int]:
    """Return channels, height and width."""
    return (shape[1], shape[2], shape[3]) if layout == "nchw" else (shape[3], shape[1], shape[2])


def _misfit(image: ImageInput, settings: PictureSettings, tensor: Tensor) -> str:
    """Return why a tensor is not what the settings make of a picture; empty if it is."""
    if tensor.dtype.name not in _DTYPES:
        return f"input {tensor.name!r} is {tensor.dtype}; pictures become {', '.join(_DTYPES)}"
    if tensor.shape != image.shape:
        return (
            f"input {tensor.name!r} is {list(tensor.shape)}; {image.layout} {image.colors} pictures of this size are "
            f"{list(image.shape)}"
        )
    if settings.size not in (None, (image.height, image.width)):
        height, width = settings.size or (0, 0)
        return f"height x width is {height}x{width}; the input {tensor.name!r} is {list(tensor.shape)}"
    plain = set(image.mean) == {0.0} and set(image.std) == {1.0} and image.scale == 1
    if tensor.dtype == np.uint8 and not plain:
        return f"input {tensor.name!r} is uint8 and takes pixels as they are; leave out mean, std and scale"
    return ""


def _settings_of(image: ImageInput, first_input: str) -> PictureSettings:
    """Return the settings that say all that is known about pictures."""
    fields = image._asdict()
    size = fields.pop("height"), fields.pop("width")
    fields.pop("dtype")
    return PictureSettings.model_validate(fields | {"size": size, "input": image.input or first_input})


def picture_sizes(model: onnx.ModelProto, settings: PictureSettings) -> dict[str, tuple[int | str, ...]]:
    """Return the sizes of the input that takes pictures, if the file leaves them free, as `open_model` takes them.

    Args:
        model: as its file holds it.
        settings: with a size.
    """
    sizes: dict[str, tuple[int | str, ...]] = {}
    for value in model.graph.input:
        dims = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in value.type.tensor_type.shape.dim]
        if len(dims) != 4 or settings.input not in (None, value.name) or not {1, 3} & {dims[1], dims[3]}:
            continue
        layout = settings.layout or ("nchw" if dims[1] in (1, 3) else "nhwc")
        places = (2, 3) if layout == "nchw" else (1, 2)
        wanted: dict[int, int] = dict(zip(places, settings.size or (), strict=True))
        if all(dims[place] <= 0 for place in wanted):
            sizes[value.name] = tuple(wanted.get(axis, "?") for axis in range(4))
    return sizes


def settings_beside(path: Path) -> tuple[PictureSettings, str]:
    """Return what the YAML file beside a model says about its pictures, and the name of that file.

    Args:
        path: of the model; without a YAML file nothing is said.

    Raises:
        GraphError: if the YAML file is damaged, or says what is not understood; the message names file and key.
    """
    beside = path.parent / (path.stem + SUFFIX)
    if not beside.is_file():
        return NO_SETTINGS, str(beside)
    try:
        if beside.stat().st_size > _MAX_YAML_BYTES:
            raise GraphError(f"{beside}: larger than {_MAX_YAML_BYTES} bytes; expected a few lines of YAML")
        content = yaml.safe_load(beside.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise GraphError(f"{beside}: not readable as YAML: {printable(str(error), 120)}") from None
    return parse_settings(content or {}, str(beside)), str(beside)


def parse_settings(content: object, where: str) -> PictureSettings:
    """Return settings that a person wrote.

    Args:
        content: by name, as YAML or the command line gives it.
        where: they stand, for the error.

    Raises:
        GraphError: if a name or a value is not allowed; the message names it and what is expected.
    """
    try:
        return PictureSettings.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        known = ", ".join(PictureSettings.model_fields)
        if not key or key not in PictureSettings.model_fields:
            problem = f"{key!r} is not known" if key else f"expected settings by name, not {short_repr(content)}"
            raise GraphError(f"{where}: {problem}; expected some of {known}") from None
        value = content.get(key) if isinstance(content, Mapping) else content
        raise GraphError(f"{where}: {key} is {short_repr(value)}: {printable(first['msg'], 120)}") from None


def image_of(
    metadata: Iterable[onnx.StringStringEntryProto], inputs: Sequence[Tensor], where: str
) -> ImageInput | None:
    """Return what a model's metadata says about its pictures, or None.

    Besides our own, ONNX's `Image.*` and the metadata of Ultralytics' exports are understood; these are passed over if
    they do not fit the network.

    Args:
        metadata: of the model.
        inputs: of the network, at batch 1.
        where: the model, for the error.

    Raises:
        GraphError: if our own metadata does not fit the network.
    """
    known = {entry.key: entry.value for entry in metadata}
    if IMAGE_KEY in known:
        return _own_image(known[IMAGE_KEY], inputs, where)
    settings = _foreign(known)
    if not settings.given:
        return None
    try:
        return image_input(settings, inputs, where)
    except GraphError:
        return None


def _own_image(text: str, inputs: Sequence[Tensor], where: str) -> ImageInput:
    problem = f"{where}: metadata {IMAGE_KEY!r} is {text[:100]!r}"
    try:
        entry = json.loads(text)
        mean, std = (tuple(map(float, entry[key])) for key in ("mean", "std"))
        size = int(entry.pop("height")), int(entry.pop("width"))
        name = entry.get("input") or inputs[0].name
        entry.pop("dtype", None)
        settings = PictureSettings.model_validate(entry | {"mean": mean, "std": std, "size": size, "input": name})
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError) as error:
        raise GraphError(f"{problem}; expected height, width, mean and std") from error
    if not all(map(math.isfinite, mean + std)) or not std or min(std) <= 0:
        raise GraphError(f"{problem}; expected a finite mean and a positive std for each channel")
    return image_input(settings, inputs, problem)


_PIXEL_FORMATS: Mapping[str, Colors] = {"Gray8": "gray", "Rgb8": "rgb", "Bgr8": "bgr", "Rgba8": "rgb", "Bgra8": "bgr"}
_RANGES: Mapping[str, dict[str, object]] = {
    "NominalRange_0_255": {"scale": 1.0},
    "Normalized_0_1": {"scale": PER_BYTE},
    "Normalized_1_1": {"scale": PER_BYTE, "mean": 0.5, "std": 0.5},
}


def _foreign(metadata: Mapping[str, str]) -> PictureSettings:
    """Return what the metadata of others says: ONNX's standard, and Ultralytics' exports."""
    found: dict[str, object] = {}
    if "imgsz" in metadata and "stride" in metadata:
        found = {"scale": PER_BYTE, "fit": "cover" if metadata.get("task") == "classify" else "letterbox"}
    if metadata.get("Image.BitmapPixelFormat") in _PIXEL_FORMATS:
        found["colors"] = _PIXEL_FORMATS[metadata["Image.BitmapPixelFormat"]]
    found |= _RANGES.get(metadata.get("Image.NominalPixelRange", ""), {})
    return PictureSettings.model_validate(found)


def hint(graph: ModelGraph) -> str:
    """Return what to add so that a network takes pictures; empty if no input can.

    Args:
        graph: without `image`.
    """
    try:
        image = image_input(NO_SETTINGS, [graph.tensors[name] for name in graph.inputs], "")
    except GraphError:
        return ""
    usual = "--scale 1" if image.dtype == "uint8" else "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 or --scale 1"
    return f"say how its pictures are prepared, such as {usual}, or in a file {graph.name}{SUFFIX} beside it"

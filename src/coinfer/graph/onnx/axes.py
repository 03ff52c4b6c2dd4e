"""Sizes of a network's inputs: which axes are free, and what the user says about them."""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from coinfer.errors import printable
from coinfer.graph.ir import GraphError
from coinfer.graph.parts import FreeAxis, Tensor

BATCH = "N"
"""Name of the batch in structures, whatever the file calls it."""
_BATCH_NAME = re.compile(r"batch|^(n|b|bs|bsz)$", re.IGNORECASE)
_RANGE = re.compile(r"(\d{1,9})(?:\.\.(\d{1,9})?)?")

_IMAGE_RANK = 4
PROBES = 3
"""Sizes that every network must take: the first of `probes`."""
_STRIDE = 32
"""Networks on pictures mostly divide their sizes by this much; smaller ones are all rounded to one."""

Size = int | str
"""Number of elements; or `low..high` or `low..` for an axis that stays free; shapes are stated at its low end."""
Shapes = Mapping[str, Size | Sequence[Size]]
"""Sizes by name of an axis, or of all axes by name of an input. `?` leaves an axis of an input as it is."""


class InputAxes(NamedTuple):
    """An input as its file declares it."""

    name: str
    dtype: np.dtype
    dims: tuple[Size, ...]
    """For each axis its size, or its name if it is free; free axes without a name are called `<input>.<axis>`."""

    @property
    def declared(self) -> list[Size]:
        """Return the shape as a person would write it: `?` for a free axis without a name."""
        return ["?" if dim == f"{self.name}.{axis}" else dim for axis, dim in enumerate(self.dims)]


class ResolvedAxes(NamedTuple):
    """What is known of the inputs' sizes before a network is read."""

    inputs: tuple[InputAxes, ...]
    """Axes that were fixed have their sizes."""
    free: tuple[FreeAxis, ...]
    fixed: Mapping[str, int]
    """Sizes of axes that the file leaves free and the user fixed, by name."""

    def tensors(self, sizes: Mapping[str, int]) -> list[Tensor]:
        """Return the inputs at some sizes.

        Args:
            sizes: of all free axes by name.
        """
        shapes = [tuple(sizes[dim] if isinstance(dim, str) else dim for dim in one.dims) for one in self.inputs]
        return [Tensor(one.name, one.dtype, shape) for one, shape in zip(self.inputs, shapes, strict=True)]

    def fix(self, sizes: Mapping[str, int]) -> "ResolvedAxes":
        """Return the same with some free axes fixed.

        Args:
            sizes: by name of the axis.
        """
        inputs = tuple(
            one._replace(dims=tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in one.dims))
            for one in self.inputs
        )
        return ResolvedAxes(inputs, tuple(axis for axis in self.free if axis.name not in sizes), self.fixed)


class MissingSizeError(GraphError):
    """A free axis without a size; the message says what to type."""


def parse_size(text: Size, problem: str) -> tuple[int, int | None]:
    """Return the smallest and the largest size of an axis; None for no limit.

    Args:
        text: `320`, `16..512` or `1..`.
        problem: starts the message of the error.

    Raises:
        GraphError: if it is no such thing, or the range is empty.
    """
    match = _RANGE.fullmatch(str(text).strip())
    if match is None or int(match[1]) < 1 or (match[2] and int(match[2]) < int(match[1])):
        raise GraphError(f"{problem}: {str(text)[:40]!r} is no size; expected a number such as 320, or a range 16..512")
    low = int(match[1])
    high = int(match[2]) if match[2] else (None if ".." in str(text) else low)
    return low, high


def plain(shapes: object, where: str) -> dict[str, int | str | list[int | str]]:
    """Return sizes as whole numbers, texts, and lists of them.

    Args:
        shapes: `Shapes`, perhaps with NumPy's numbers.
        where: what messages call the model.

    Raises:
        GraphError: if they are anything else.
    """
    if not isinstance(shapes, Mapping):
        raise GraphError(f"{where}: shapes are {shapes!r:.60}; expected sizes by name, such as {{'height': 320}}")
    plain_sizes: dict[str, int | str | list[int | str]] = {}
    for key, value in shapes.items():
        sizes = [*value] if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) else [value]
        for size in sizes:
            if not isinstance(size, int | np.integer | str) or isinstance(size, bool):
                raise GraphError(f"{where}: {size!r:.40} is no size of {key!r}; expected a number or a range '16..512'")
        made = [size if isinstance(size, str) else int(size) for size in sizes]
        plain_sizes[str(key)] = made[0] if sizes == [value] else made
    return plain_sizes


def resolve(inputs: Sequence[InputAxes], shapes: Shapes, where: str) -> ResolvedAxes:
    """Return the inputs with the sizes that a user gave. A batch without a size stays free, from 1 on.

    Args:
        inputs: as the file declares them.
        shapes: what the user said.
        where: what messages call the model.

    Raises:
        GraphError: if a size does not fit an input, names nothing, or is given twice.
        MissingSizeError: if one is missing.
    """
    inputs = _with_common_batch(inputs)
    given = _given(inputs, shapes, where)
    batches = {name for name in _free_names(inputs) if _is_batch(name, inputs)}
    missing = [
        (source, axis)
        for source in inputs
        for axis, dim in enumerate(source.dims)
        if isinstance(dim, str) and dim not in given and dim not in batches
    ]
    if missing:
        raise MissingSizeError(_missing(where, missing, given, batches))
    ranges = dict.fromkeys(batches, (1, None)) | given
    free = tuple(
        FreeAxis(name, *ranges[name], tuple(_places(inputs, name)), name in batches) for name in _free_names(inputs)
    )
    fixed = {name: low for name, (low, high) in given.items() if low == high}
    return ResolvedAxes(inputs, free, fixed).fix(fixed)


def probes(free: Sequence[FreeAxis]) -> list[dict[str, int]]:
    """Return sizes of the free axes at which a network is read, to see what depends on them.

    The first are those that count. In the others no two axes grow alike; the third are odd, as networks often treat
    sizes that no power of two divides in another way. Where axes begin below `_STRIDE`, there are fourth ones at which
    strides show, which not every network takes: some know no more positions than they need.

    Args:
        free: the axes.
    """
    low = {axis.name: axis.low for axis in free}
    if not free:
        return [low]
    grown = {axis.name: axis.low * (2 + i) for i, axis in enumerate(free)}
    if all(axis.is_batch for axis in free):
        return [low, grown]
    odd = {axis.name: grown[axis.name] + (0 if axis.is_batch else 2 * i + 1) for i, axis in enumerate(free)}
    if all(axis.is_batch or axis.low >= _STRIDE for axis in free):
        return [low, grown, odd]
    far = {
        axis.name: odd[axis.name] if axis.is_batch else min(axis.low + _STRIDE * (2 * i + 2), axis.high or math.inf)
        for i, axis in enumerate(free)
    }
    return [low, grown, odd, {name: int(size) for name, size in far.items()}]


def axis_names(
    name: str, tensors: Sequence[Mapping[str, Tensor]], sizes: Sequence[Mapping[str, int]]
) -> tuple[str, ...]:
    """Return for each axis of a tensor the free axis whose size it has, "" if it is fixed, `?` if it follows otherwise.

    Args:
        name: of the tensor.
        tensors: by name, at several sizes of the free axes.
        sizes: of the free axes, each time; the last are missing among the tensors where the network did not take them.
    """
    shapes = [by_name[name].shape for by_name in tensors]
    sizes = sizes[: len(shapes)]
    if len({len(shape) for shape in shapes}) > 1:
        return ("?",) * len(shapes[0])
    free = {tuple(each[axis] for each in sizes): axis for axis in sizes[0]}
    return tuple("" if len(set(column)) == 1 else free.get(column, "?") for column in zip(*shapes, strict=True))


def _free_names(inputs: Sequence[InputAxes]) -> list[str]:
    return list(dict.fromkeys(dim for source in inputs for dim in source.dims if isinstance(dim, str)))


def _with_common_batch(inputs: Sequence[InputAxes]) -> tuple[InputAxes, ...]:
    """Return the inputs with one name for the batch: exporters often name the first axis of each input apart."""
    firsts = [source.dims[0] for source in inputs if source.dims]
    if not inputs or len(firsts) < len(inputs) or not all(isinstance(dim, str) for dim in firsts):
        return tuple(inputs)
    named = [dim for source, dim in zip(inputs, firsts, strict=True) if dim != f"{source.name}.0"]
    name = named[0] if named else BATCH
    return tuple(source._replace(dims=(name, *source.dims[1:])) for source in inputs)


def _is_batch(name: str, inputs: Sequence[InputAxes]) -> bool:
    """Return true for the first axis of all inputs, and for an axis that is called so."""
    return bool(_BATCH_NAME.search(name)) or all(source.dims[:1] == (name,) for source in inputs)


def _places(inputs: Sequence[InputAxes], name: str) -> Iterator[tuple[str, int]]:
    return ((source.name, axis) for source in inputs for axis, dim in enumerate(source.dims) if dim == name)


def _given(inputs: Sequence[InputAxes], shapes: Shapes, where: str) -> dict[str, tuple[int, int | None]]:
    """Return the ranges that a user gave, by name of the axis."""
    by_input = {source.name: source for source in inputs}
    free = _free_names(inputs)
    given: dict[str, tuple[int, int | None]] = {}
    for key, value in shapes.items():
        problem = f"{where}: --shape {key}={_text(value)}"
        if key in by_input and not (isinstance(value, int) and key in free):
            said = value.split(",") if isinstance(value, str) else [value] if isinstance(value, int) else value
            pairs = _of_input(by_input[key], said, problem)
        elif key in free or _alias(key, inputs):
            if not isinstance(value, (int, str)):
                raise GraphError(f"{problem}: {key!r} is one axis; expected one size")
            pairs = [(key if key in free else _alias(key, inputs), parse_size(value, problem))]
        else:
            known = ", ".join([*free, *by_input])
            raise GraphError(f"{problem}: no axis or input is called {key!r}; there are {known}")
        for name, size in pairs:
            if given.setdefault(name, size) != size:
                raise GraphError(f"{problem}: axis {name!r} has another size by --image-size or another --shape")
    return given


def _alias(key: str, inputs: Sequence[InputAxes]) -> str:
    """Return the name of the free axis that `<input>.<axis>` means, or nothing."""
    name, _, axis = key.rpartition(".")
    dims = next((source.dims for source in inputs if source.name == name), ())
    dim = dims[int(axis)] if axis.isdecimal() and int(axis) < len(dims) else ""
    return dim if isinstance(dim, str) else ""


def _of_input(source: InputAxes, said: Sequence[Size], problem: str) -> list[tuple[str, tuple[int, int | None]]]:
    if len(said) != len(source.dims):
        raise GraphError(f"{problem}: input {source.name!r} has {len(source.dims)} axes: {_dims(source)}")
    pairs = []
    for axis, (dim, size) in enumerate(zip(source.dims, said, strict=True)):
        if str(size).strip() in {"?", str(dim)}:
            continue
        low, high = parse_size(size, problem)
        if isinstance(dim, str):
            pairs.append((dim, (low, high)))
        elif (low, high) != (dim, dim):
            raise GraphError(f"{problem}: axis {axis} of input {source.name!r} is fixed at {dim}: {_dims(source)}")
    return pairs


def _missing(
    where: str,
    missing: Sequence[tuple[InputAxes, int]],
    given: Mapping[str, tuple[int, int | None]],
    batches: Collection[str],
) -> str:
    """Return the message for axes without a size, with options to type."""
    source, axis = missing[0]
    options = [_option(source, given, batches) for source in dict.fromkeys(source for source, _ in missing)]
    name = str(source.dims[axis])
    size = options[0].rpartition("=")[2].split(",")[axis]
    short = "" if name == f"{source.name}.{axis}" else f", or --shape {name}={size} for this axis alone"
    return (
        f"{where}: input {source.name!r} {_dims(source)} has no size on axis {axis}; add the sizes that you use, "
        f"such as {' '.join(options)}{short}"
    )


def _option(source: InputAxes, given: Mapping[str, tuple[int, int | None]], batches: Collection[str]) -> str:
    """Return an option that gives an input sizes, with usual ones for pictures and sequences."""
    rank = len(source.dims)

    def size(axis: int, dim: Size) -> int:
        if isinstance(dim, int):
            return dim
        if dim in given:
            return given[dim][0]
        is_unnamed = dim == f"{source.name}.{axis}" and axis < rank - 1 and rank != _IMAGE_RANK
        return 1 if axis == 0 or dim in batches or is_unnamed else 224 if rank == _IMAGE_RANK else 128

    sizes = [size(axis, dim) for axis, dim in enumerate(source.dims)]
    return f"--shape {source.name}={','.join(map(str, sizes))}"


def _dims(source: InputAxes) -> str:
    return f"[{', '.join(map(str, source.declared))}]"


def _text(value: Size | Sequence[Size]) -> str:
    return printable(str(value) if isinstance(value, (int, str)) else ",".join(map(str, value)), 80)

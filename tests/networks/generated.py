"""Random networks: branches, tensors that several operations read, odd shapes, several inputs and outputs."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tests.networks.case import Case

GROUP = "Generated"
NAMES = [f"generated-{i:03}" for i in range(300)]
SIZES = (1, 2, 3, 5, 7, 8)
UNARY = ("Relu", "Sigmoid", "Tanh", "Softplus", "Abs", "Neg", "HardSwish", "Identity", "Erf", "Floor")
MAX_ELEMENTS = 4096


class Value(NamedTuple):
    """A tensor made so far."""

    name: str
    shape: tuple[int, ...]


class Build:
    """A network under construction."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.values: list[Value] = []

    def weight(self, array: np.ndarray) -> str:
        """Return the name of a new weight."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def noise(self, *shape: int) -> str:
        """Return the name of a new weight of normal noise."""
        rng = np.random.default_rng(len(self.weights))
        scale = max(np.prod(shape[1:], dtype=float), 1.0) ** 0.5
        return self.weight((rng.standard_normal(shape) / scale).astype(np.float32))

    def add(self, kind: str, inputs: list[str], shape: tuple[int, ...], **attributes: object) -> None:
        """Append an operation with one output."""
        name = f"t{len(self.values)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], f"n{len(self.nodes)}", **attributes))
        self.values.append(Value(name, shape))


@st.composite
def networks(draw: st.DrawFn, largest: int = 24) -> onnx.ModelProto:
    """Draw a network of 1 to `largest` operations, each of which reads any earlier tensors."""
    build = Build()
    for i in range(draw(st.integers(1, 3))):
        rank = draw(st.sampled_from((2, 3, 4)))
        build.values.append(Value(f"x{i}", (1, *(draw(st.sampled_from(SIZES)) for _ in range(rank - 1)))))
    inputs = tuple(build.values)
    for _ in range(draw(st.integers(1, largest))):
        draw(st.sampled_from(STEPS))(draw, build)
    read = {name for node in build.nodes for name in node.input}
    made = build.values[len(inputs) :]
    ends = [value for value in made if value.name not in read]
    ends += draw(st.lists(st.sampled_from(made), max_size=1).map(lambda some: [v for v in some if v not in ends]))
    return _model(build, [value for value in inputs if value.name in read], ends)


def _model(build: Build, inputs: list[Value], outputs: list[Value]) -> onnx.ModelProto:
    infos = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values]
        for values in (inputs, outputs)
    ]
    graph = helper.make_graph(build.nodes, "generated", *infos, build.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _any(draw: st.DrawFn, build: Build) -> Value:
    """Draw a tensor, the newest one half of the time."""
    return build.values[-1] if draw(st.booleans()) else draw(st.sampled_from(build.values))


def _unary(draw: st.DrawFn, build: Build) -> None:
    value = _any(draw, build)
    build.add(draw(st.sampled_from(UNARY)), [value.name], value.shape)


def _binary(draw: st.DrawFn, build: Build) -> None:
    left = _any(draw, build)
    kind = draw(st.sampled_from(("Add", "Mul", "Sub", "Max")))
    right = draw(st.sampled_from([value for value in build.values if value.shape == left.shape]))
    build.add(kind, [left.name, right.name], left.shape)


def _dense(draw: st.DrawFn, build: Build) -> None:
    value, width = _any(draw, build), draw(st.sampled_from(SIZES))
    build.add("MatMul", [value.name, build.noise(value.shape[-1], width)], (*value.shape[:-1], width))


def _convolution(draw: st.DrawFn, build: Build) -> None:
    value = draw(st.sampled_from(build.values))
    if len(value.shape) < 3:
        return _dense(draw, build)
    width, places = draw(st.sampled_from(SIZES)), len(value.shape) - 2
    build.add(
        "Conv",
        [value.name, build.noise(width, value.shape[1], *[3] * places), build.noise(width)],
        (1, width, *value.shape[2:]),
        pads=[1] * 2 * places,
    )
    return None


def _norm(draw: st.DrawFn, build: Build) -> None:
    value = _any(draw, build)
    size = value.shape[-1]
    build.add("LayerNormalization", [value.name, build.noise(size), build.noise(size)], value.shape, axis=-1)


def _concat(draw: st.DrawFn, build: Build) -> None:
    left = _any(draw, build)
    axis = draw(st.integers(1, len(left.shape) - 1))
    fitting = [
        value
        for value in build.values
        if len(value.shape) == len(left.shape) and _without(value.shape, axis) == _without(left.shape, axis)
    ]
    parts = [left, *draw(st.lists(st.sampled_from(fitting), min_size=1, max_size=3))]
    shape = list(left.shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    if np.prod(shape) <= MAX_ELEMENTS:
        build.add("Concat", [part.name for part in parts], tuple(shape), axis=axis)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


def _transpose(draw: st.DrawFn, build: Build) -> None:
    value = _any(draw, build)
    axes = [0, *draw(st.permutations(range(1, len(value.shape))))]
    build.add("Transpose", [value.name], tuple(value.shape[axis] for axis in axes), perm=axes)


def _reshape(draw: st.DrawFn, build: Build) -> None:
    value = _any(draw, build)
    flat = int(np.prod(value.shape))
    shapes = [(1, flat), (1, flat, 1), (1, 1, 1, flat), (1, value.shape[1], flat // value.shape[1])]
    shape = draw(st.sampled_from(shapes))
    build.add("Reshape", [value.name, build.weight(np.array([*shape[:-1], -1], np.int64))], shape)


def _split(draw: st.DrawFn, build: Build) -> None:
    value = _any(draw, build)
    size = value.shape[-1]
    if size < 2:
        return _unary(draw, build)
    first = draw(st.integers(1, size - 1))
    sizes = (first, size - first)
    names = [f"t{len(build.values)}", f"t{len(build.values) + 1}"]
    split = build.weight(np.array(sizes, np.int64))
    build.nodes.append(helper.make_node("Split", [value.name, split], names, f"n{len(build.nodes)}", axis=-1))
    build.values += [Value(name, (*value.shape[:-1], part)) for name, part in zip(names, sizes, strict=True)]
    return None


def _attention(draw: st.DrawFn, build: Build) -> None:
    """Append a product of a tensor with itself, by way of Softmax and Where."""
    value = _any(draw, build)
    rows = value.shape[-2]
    turned = [*range(len(value.shape) - 2), len(value.shape) - 1, len(value.shape) - 2]
    build.add("Transpose", [value.name], (*value.shape[:-2], value.shape[-1], rows), perm=turned)
    build.add("MatMul", [value.name, build.values[-1].name], (*value.shape[:-1], rows))
    build.add("Softmax", [build.values[-1].name], build.values[-1].shape, axis=-1)
    build.add("MatMul", [build.values[-1].name, value.name], value.shape)


def _reduce(draw: st.DrawFn, build: Build) -> None:
    value = _any(draw, build)
    axis = draw(st.integers(1, len(value.shape) - 1))
    shape = (*value.shape[:axis], 1, *value.shape[axis + 1 :])
    build.add(draw(st.sampled_from(("ReduceMean", "ReduceMax"))), [value.name], shape, axes=[axis], keepdims=1)


STEPS = (
    *(_unary, _unary, _binary, _binary, _dense, _convolution, _norm),
    *(_concat, _transpose, _reshape, _split, _attention, _reduce),
)


def cases() -> list[Case]:
    """Return the generated networks; `write_files` writes their files, all at once."""
    return [Case(name, GROUP, "Hypothesis", f"{name}.onnx", lambda _: None, is_small=True) for name in NAMES]


def write_files(folder: Path) -> None:
    """Write the files of all generated networks, unless they are there.

    Args:
        folder: for the files.
    """
    if (folder / f"{NAMES[-1]}.onnx").exists():
        return
    left = iter(NAMES)
    seen = set[bytes]()

    @settings(
        max_examples=20 * len(NAMES),
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(networks())
    def write(model: onnx.ModelProto) -> None:
        data = model.SerializeToString(deterministic=True)
        if len(model.graph.node) > 2 and data not in seen and (name := next(left, None)):
            seen.add(data)
            (folder / f"{name}.onnx").write_bytes(data)

    write()

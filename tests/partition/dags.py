"""Small networks and placement problems made by hand, without weights."""

import numpy as np
import onnx
from hypothesis import strategies as st

from coinfer.graph.ir import ModelGraph, Op, Tensor
from coinfer.partition.problem import Problem, star

KINDS = ("Conv", "Relu", "Add", "MaxPool", "Concat", "Reshape")


def network(ops: list[tuple[str, tuple[str, ...], tuple[str, ...]]], elements: dict[str, int]) -> ModelGraph:
    """Operations as (kind, inputs, outputs); what nothing makes is an input, what nothing reads an output."""
    made = [name for _, _, outputs in ops for name in outputs]
    read = {name for _, inputs, _ in ops for name in inputs}
    inputs = list(dict.fromkeys(name for _, names, _ in ops for name in names if name not in made))
    tensors = {name: Tensor(name, np.dtype(np.float32), (1, elements.get(name, 1))) for name in (*inputs, *made)}
    return ModelGraph(
        name="by-hand",
        ops=tuple(Op(f"op{i}", kind, ins, outs, (), 1.0, 0) for i, (kind, ins, outs) in enumerate(ops)),
        tensors=tensors,
        inputs=tuple(inputs),
        outputs=tuple(name for name in made if name not in read),
        proto=onnx.ModelProto(),
        weights={},
    )


def line(count: int, elements: list[int]) -> ModelGraph:
    """A chain of `count` poolings (which fuse with nothing); `elements` of the input and each output."""
    ops = [("MaxPool", (f"t{i}",), (f"t{i + 1}",)) for i in range(count)]
    return network(ops, {f"t{i}": size for i, size in enumerate(elements)})


def diamond() -> ModelGraph:
    """One branch shrinks to 1 element early, the other to 2 late: the best cut may cross both."""
    ops = [
        ("MaxPool", ("x",), ("a",)),
        ("MaxPool", ("a",), ("left",)),
        ("MaxPool", ("a",), ("r",)),
        ("MaxPool", ("r",), ("right",)),
        ("Concat", ("left", "right"), ("y",)),
    ]
    return network(ops, {"x": 100, "a": 100, "left": 1, "r": 50, "right": 2, "y": 3})


@st.composite
def networks(draw: st.DrawFn, most: int = 7) -> ModelGraph:
    """Connected DAGs of 1 to `most` operations and a last one that gathers all loose ends."""
    ops, tensors, loose = [], ["x"], {"x"}
    for i in range(draw(st.integers(1, most))):
        kind = draw(st.sampled_from(KINDS))
        inputs = tuple(draw(st.lists(st.sampled_from(tensors), min_size=1, max_size=2, unique=True)))
        outputs = tuple(f"t{i}.{j}" for j in range(draw(st.sampled_from((1, 1, 1, 2)))))
        ops.append((kind, inputs, outputs))
        tensors += outputs
        loose = (loose - set(inputs)) | set(outputs)
    ops.append(("Concat", tuple(sorted(loose)), ("y",)))
    sizes = draw(st.lists(st.integers(1, 50), min_size=len(tensors) + 1, max_size=len(tensors) + 1))
    return network(ops, dict(zip([*tensors, "y"], sizes, strict=True)))


@st.composite
def problems(draw: st.DrawFn, graphs: st.SearchStrategy[ModelGraph], servers: int = 1) -> Problem:
    """Any speeds and rates, also servers slower than the device and costs of 0."""
    graph = draw(graphs)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (1 + servers, len(graph.ops))
    op_s = rng.exponential(1.0, shape) * rng.integers(0, 2, shape) * 10.0 ** rng.integers(-3, 2, (1 + servers, 1))
    bits = {name: float(tensor.elements) for name, tensor in graph.tensors.items()}
    uplink_bps, between_bps = 10.0 ** rng.uniform(-1, 4, servers), float(10.0 ** rng.uniform(0, 4))
    return star(graph, op_s, bits, uplink_bps, between_bps, rng.exponential(1.0, servers) * rng.integers(0, 2))

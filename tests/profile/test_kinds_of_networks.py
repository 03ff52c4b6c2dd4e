"""Networks of every kind are measured and planned, and what a profile calls exact is exact."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.graph.small_graphs import run
from tests.graph.test_cuts import masked, quantised

from coinfer.graph.ir import ModelGraph
from coinfer.graph.onnx.load import from_proto
from coinfer.options import compile as compile_module
from coinfer.options.compile import compile_options
from coinfer.profile import table as table_module
from coinfer.profile.exactness import difference
from coinfer.profile.measure import measure
from coinfer.profile.samples import random_samples
from coinfer.profile.table import CutCheck, ProfileTable
from coinfer.runtime.device.device import Device
from coinfer.runtime.profiling import measure_with_codec, samples_for

NODE = helper.make_node
RANDOM = np.random.default_rng(4)


def value(name: str, kind: int, shape: list[int | str] | None):
    return helper.make_tensor_value_info(name, kind, shape)


def network(name: str, nodes, inputs, outputs, weights: dict[str, np.ndarray] | None = None) -> ModelGraph:
    held = [numpy_helper.from_array(array, key) for key, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, name, inputs, outputs, held)
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), name)


def one_operation() -> ModelGraph:
    nodes = [NODE("Gemm", ["x", "w"], ["y"])]
    ends = [value("x", TensorProto.FLOAT, [1, 8])], [value("y", TensorProto.FLOAT, [1, 4])]
    return network("one", nodes, *ends, {"w": np.ones((8, 4), np.float32)})


def tokens() -> ModelGraph:
    nodes = [
        NODE("Gather", ["table", "ids"], ["a"]),
        NODE("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
        NODE("Mul", ["a", "m"], ["b"]),
        NODE("Softmax", ["b"], ["c"]),
        NODE("Mul", ["c", "m"], ["d"]),
        NODE("Tanh", ["d"], ["e"]),
        NODE("Mul", ["e", "m"], ["y"]),
    ]
    inputs = [value("ids", TensorProto.INT64, ["N", 6]), value("mask", TensorProto.INT64, ["N", 6, 1])]
    weights = {"table": RANDOM.standard_normal((9, 4)).astype(np.float32)}
    return network("tokens", nodes, inputs, [value("y", TensorProto.FLOAT, None)], weights)


def recurrent() -> ModelGraph:
    """An LSTM whose state comes in and goes out."""
    weights = {name: RANDOM.standard_normal((1, 16, 4)).astype(np.float32) for name in ("w", "r")}
    nodes = [
        NODE("Tanh", ["x"], ["a"]),
        NODE("LSTM", ["a", "w", "r", "", "", "h0", "c0"], ["o", "h1", "c1"], hidden_size=4),
        NODE("Softmax", ["o"], ["y"]),
    ]
    inputs = [value("x", TensorProto.FLOAT, [5, 1, 4]), *(value(n, TensorProto.FLOAT, [1, 1, 4]) for n in ("h0", "c0"))]
    outputs = [value(name, TensorProto.FLOAT, None) for name in ("y", "h1", "c1")]
    return network("recurrent", nodes, inputs, outputs, weights)


KINDS = [one_operation, tokens, recurrent, masked, quantised]


@pytest.mark.parametrize("build", KINDS)
def test_every_network_is_planned_and_its_exact_cuts_are_exact(build):
    graph = build()
    (sample,) = samples_for(graph)
    table = measure_with_codec(graph, 1, [sample])
    options = compile_options(graph, table)
    assert options.cuts[0] == graph.inputs
    assert options.is_local.tolist()[-1]
    whole = run(graph, dict(sample), graph.outputs)
    for check in table.cut_checks:
        if check.outputs == graph.outputs:
            rest = run(graph, run(graph, dict(sample), check.cut), graph.outputs)
            changed = max(difference(whole[name], rest[name]) for name in graph.outputs)
            assert changed == check.difference
    assert ProfileTable.model_validate_json(table.model_dump_json()) == table


@pytest.mark.parametrize("build", [one_operation, tokens])
def test_a_device_answers_whatever_the_network(build, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    graph = build()
    (sample,) = samples_for(graph)
    with Device(graph) as device:
        result = device.infer(dict(sample))
    np.testing.assert_array_equal(result.output, run(graph, dict(sample), graph.outputs)[graph.outputs[0]])
    assert result.executed_on == "device"


def test_with_32_bits_alone_only_cuts_that_change_nothing_are_offered():
    graph = masked()
    table = measure(graph, random_samples(graph), repeats=1)
    inner = [cut.tensors for cut in graph.useful_cuts()[1:-1]]
    sizes = {name: dict.fromkeys((32, 16), 100.0) for name in graph.tensors}
    checks = tuple(
        CutCheck(cut=cut, outputs=graph.outputs, difference=changed)
        for cut, changed in zip(inner, (0.0, 1e-7), strict=True)
    )
    times = {"encode_s_per_byte": {32: 0.0, 16: 0.0}, "decode_s_per_byte": {32: 0.0, 16: 0.0}}
    table = table.model_copy(update={"payload_bits": sizes, "cut_checks": checks, **times})
    assert set(compile_options(graph, table, (32,)).cuts) == {graph.inputs, inner[0], graph.outputs}
    assert set(compile_options(graph, table, (32, 16)).cuts) == {graph.inputs, *inner, graph.outputs}
    unchecked = table.model_copy(update={"cut_checks": ()})
    assert set(compile_options(graph, unchecked, (32,)).cuts) == {graph.inputs, *inner, graph.outputs}


@pytest.fixture
def small_messages(monkeypatch):
    for module in (table_module, compile_module):
        monkeypatch.setattr(module, "MESSAGE_BYTES", 64_000)


def test_cuts_over_the_message_limit_are_left_out(small_messages):
    nodes = [
        NODE("Tile", ["x", "times"], ["wide"]),
        NODE("Relu", ["wide"], ["r"]),
        NODE("ReduceMean", ["r"], ["y"], axes=[1]),
    ]
    ends = [value("x", TensorProto.FLOAT, [1, 1, 3_000])], [value("y", TensorProto.FLOAT, None)]
    graph = network("wide", nodes, *ends, {"times": np.array([1, 8, 1])})
    sizes = {name: dict.fromkeys((32, 16, 8), 1e3) for name in graph.tensors}
    table = measure(graph, random_samples(graph), repeats=1).model_copy(update={"payload_bits": sizes})
    table = table.model_copy(update={"encode_s": {n: dict.fromkeys((32, 16, 8), 0.0) for n in sizes}})
    table = table.model_copy(update={"decode_s": table.encode_s})
    assert set(compile_options(graph, table).cuts) == {("x",), ("y",)}, "96 kB cross the cuts inside"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1.0, np.nan], [1.0, np.nan], 0.0),
        ([1.0, np.inf], [1.0, np.inf], 0.0),
        ([2.0, np.nan], [1.0, np.nan], 0.5),
        ([1.0, np.nan], [1.0, 3.0], 1.0),
        ([1.0, 2.0], [1.0, np.inf], 1.0),
        ([4, 2], [4, 1], 0.25),
    ],
)
def test_differences_are_relative_and_know_values_that_are_no_numbers(one, other, expected):
    assert difference(np.array(one), np.array(other)) == expected


def test_a_large_answer_leaves_everything_here(small_messages):
    nodes = [NODE("Tanh", ["x"], ["a"]), NODE("Tile", ["a", "times"], ["y"])]
    ends = [value("x", TensorProto.FLOAT, [1, 1, 1_000])], [value("y", TensorProto.FLOAT, None)]
    graph = network("wide", nodes, *ends, {"times": np.array([1, 20, 1])})
    assert compile_options(graph, measure(graph, random_samples(graph), repeats=1)).is_local.all()

"""Operations that ONNX Runtime contributes, functions inside files, quantised weights, names, opsets."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tests.graph.onnx.agreement import opened
from tests.graph.small_graphs import model, perceptron

from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx.load import from_proto

node = helper.make_node
RANDOM = np.random.default_rng(2)
FEED = {"x": RANDOM.standard_normal((2, 4)).astype(np.float32)}
SQUARE = RANDOM.standard_normal((4, 4)).astype(np.float32)


def kinds(graph: ModelGraph) -> list[str]:
    return [op.kind for op in graph.ops]


def test_contributed_operations_of_the_runtime() -> None:
    nodes = [
        node("FusedMatMul", ["x", "w"], ["a"], domain="com.microsoft", alpha=0.5, transB=1),
        node("BiasGelu", ["a", "b"], ["g"], domain="com.microsoft"),
        node("SkipLayerNormalization", ["g3", "g3", "b"], ["y"], domain="com.microsoft"),
    ]
    nodes.insert(2, node("Unsqueeze", ["g", "zero"], ["g3"]))
    weights = {"w": SQUARE, "b": np.ones(4, np.float32), "zero": np.array([0])}
    proto = model(nodes, {"x": [2, 4]}, ["y"], weights)
    proto.opset_import.add(domain="com.microsoft", version=1)
    graph = opened(proto, FEED)
    assert kinds(graph) == ["FusedMatMul", "BiasGelu", "Unsqueeze", "SkipLayerNormalization"]
    assert graph.tensors["a"].shape == (2, 4)
    assert graph.ops[0].params == 16


def test_operations_of_classic_learners() -> None:
    nodes = [
        node("Scaler", ["x"], ["s"], domain="ai.onnx.ml", offset=[1.0] * 4, scale=[2.0] * 4),
        node(
            "LinearClassifier",
            ["s"],
            ["label", "scores"],
            domain="ai.onnx.ml",
            coefficients=[1.0, 0, 0, 0, 0, 1.0, 0, 0],
            intercepts=[0.0, 0.1],
            classlabels_ints=[3, 5],
        ),
    ]
    proto = model(nodes, {"x": ["N", 4]}, ["label", "scores"])
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    proto.opset_import.add(domain="ai.onnx.ml", version=1)
    graph = opened(proto, FEED)
    assert kinds(graph) == ["Tail"]  # ONNX states no shapes for them
    assert [graph.free_shape(name) for name in graph.outputs] == [("?",), ("?", 2)]


def with_functions(body: list[onnx.NodeProto], *others: onnx.FunctionProto, opset: int = 17) -> onnx.ModelProto:
    function = helper.make_function("own", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", opset), *OWN])
    proto = model(
        [node("Twice", ["x"], ["h"], domain="own"), node("Twice", ["h"], ["y"], domain="own")], {"x": ["N", 4]}, ["y"]
    )
    proto.opset_import.extend(OWN)
    proto.functions.extend([function, *others])
    return proto


OWN = [helper.make_opsetid("own", 1)]


@pytest.mark.parametrize("opset", [17, 18])
def test_functions_inside_a_file_are_inlined(opset: int) -> None:
    body = [node("Tanh", ["a"], ["t"]), node("Add", ["t", "a"], ["b"])]
    graph = opened(with_functions(body, opset=opset), FEED)
    assert kinds(graph) == ["Tanh", "Add", "Tanh", "Add"]


def test_functions_that_call_themselves_or_explode_are_refused() -> None:
    with pytest.raises(GraphError, match="function Twice calls itself"):
        from_proto(with_functions([node("Twice", ["a"], ["b"], domain="own")]), "circle")
    doubling = [
        helper.make_function(
            "own", f"F{i}", ["a"], ["b"],
            [node(f"F{i + 1}", ["a"], ["t"], domain="own"), node(f"F{i + 1}", ["t"], ["b"], domain="own")],
            [helper.make_opsetid("", 17), *OWN],
        )
        for i in range(60)
    ]  # fmt: skip
    last = helper.make_function("own", "F60", ["a"], ["b"], [node("Tanh", ["a"], ["b"])], [helper.make_opsetid("", 17)])
    with pytest.raises(GraphError, match=r"more than 50000 operations once its functions are inlined"):
        from_proto(with_functions([node("F0", ["a"], ["b"], domain="own")], *doubling, last), "bomb")


def test_quantised_weights_stay_quantised() -> None:
    """ONNX Runtime computes in integers where it finds a DequantizeLinear before each input of a convolution."""
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("DequantizeLinear", ["w", "s", "z"], ["dw"]),
        node("Transpose", ["dw"], ["t"]),
        node("MatMul", ["d", "t"], ["m"]),
        node("QuantizeLinear", ["m", "s", "z"], ["q2"]),
        node("DequantizeLinear", ["q2", "s", "z"], ["d2"]),
        node("MatMul", ["d2", "t"], ["y"]),
    ]
    w = RANDOM.integers(-127, 127, (4, 4)).astype(np.int8)
    graph = opened(
        model(nodes, {"x": ["N", 4]}, ["y"], {"w": w, "s": np.array(0.02, np.float32), "z": np.array(0, np.int8)}), FEED
    )
    assert kinds(graph) == ["QuantizeLinear", "DequantizeLinear", "MatMul"] * 2
    assert list(graph.weights) == ["w"]
    for op in graph.ops[2::3]:
        assert (op.weights, op.params, len(op.nodes)) == (("w",), 16, 3)
    assert graph.pruned(("m",)).ops[-1].nodes == (2, 3, 4)


def test_weights_of_four_bits() -> None:
    values = RANDOM.integers(-8, 7, 16)
    packed = numpy_helper.from_array(values.astype(np.int8).reshape(4, 4), "w")
    raw = ((values[1::2] & 15) << 4 | values[::2] & 15).astype(np.uint8).tobytes()
    packed.CopyFrom(TensorProto(name="w", dims=[4, 4], data_type=TensorProto.INT4, raw_data=raw))
    nodes = [node("DequantizeLinear", ["w", "s"], ["d"]), node("MatMul", ["x", "d"], ["y"])]
    proto = model(nodes, {"x": ["N", 4]}, ["y"], {"s": np.array(0.5, np.float32)}, opset=21)
    proto.ir_version = 10
    proto.graph.initializer.append(packed)
    graph = opened(proto, FEED)
    assert kinds(graph) == ["MatMul"]
    assert graph.ops[0].nodes == (0, 1)


LONG = ";".join(["model_1/conv2d_4/BiasAdd/ReadVariableOp"] * 8)


@pytest.mark.parametrize("name", [LONG, "line\nbreak", "\u202eodd", "q\0r"])
def test_names_that_cannot_be_sent_are_short_inside_and_shown_as_they_were(name: str) -> None:
    inner = helper.make_graph(
        [node("Neg", [name], ["n"])], "b", [], [helper.make_tensor_value_info("n", TensorProto.FLOAT, None)]
    )
    nodes = [
        node("Relu", ["x"], [name]),
        node("ReduceSum", [name], ["s"], keepdims=0),
        node("Cast", ["s"], ["c"], to=TensorProto.BOOL),
        node("If", ["c"], ["i"], then_branch=inner, else_branch=inner),
        node("Add", ["i", name], ["y"]),
    ]
    graph = opened(model(nodes, {"x": [2, 4]}, ["y"]), FEED)
    short = graph.ops[0].outputs[0]
    assert graph.label(short) == name
    assert len(short.encode()) < 100
    assert short.isprintable()
    assert graph.ops[3].inputs == ("c", short)


def test_an_input_with_a_default_keeps_it() -> None:
    proto = perceptron()
    proto.graph.input.append(helper.make_tensor_value_info("b1", TensorProto.FLOAT, [8]))
    assert opened(proto, FEED).inputs == ("x",)


def test_random_operations_are_not_computed_once() -> None:
    nodes = [
        node("RandomNormalLike", ["x"], ["noise"]),
        node("RandomUniform", [], ["u"], shape=[2, 4]),
        node("Sum", ["x", "noise", "u"], ["y"]),
    ]
    graph = from_proto(model(nodes, {"x": [2, 4]}, ["y"]), "noise")
    assert kinds(graph) == ["RandomNormalLike", "RandomUniform", "Sum"]


@st.composite
def chains_of_sizes(draw: st.DrawFn) -> tuple[onnx.ModelProto, bool]:
    """A network on [2, n, 6] with computed shapes, constants and branches between its layers."""
    nodes, weights, x = [], {"w": np.ones((6, 6), np.float32), "one": np.array([1]), "six": np.array([6])}, "x"
    for i in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["reshape", "slice", "branch", "constant", "matmul", "expand"]))
        y = f"t{i}"
        if kind == "reshape":  # to a target computed from the shape, and back
            nodes += [node("Shape", [x], [f"{y}s"]), node("Neg", ["one"], [f"{y}m"])]
            nodes += [node("Concat", [f"{y}m", "six"], [f"{y}t"], axis=0), node("Reshape", [x, f"{y}t"], [f"{y}f"])]
            nodes.append(node("Reshape", [f"{y}f", f"{y}s"], [y]))
        elif kind == "slice":  # drops nothing: up to the computed length
            nodes += [node("Shape", [x], [f"{y}s"]), node("Gather", [f"{y}s", "one"], [f"{y}n"])]
            nodes += [node("Sub", ["one", "one"], [f"{y}z"]), node("Slice", [x, f"{y}z", f"{y}n", "one"], [y])]
        elif kind == "branch":
            size = draw(st.sampled_from(["one", "six"]))
            nodes += [node("Shape", [x], [f"{y}s"]), node("Gather", [f"{y}s", "one"], [f"{y}n"])]
            nodes.append(node("Greater", [f"{y}n", size], [f"{y}c"]))
            ends = [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)]
            then, other = (helper.make_graph([node(op, [x], ["r"])], op, [], ends) for op in ("Tanh", "Relu"))
            nodes.append(node("If", [f"{y}c"], [y], then_branch=then, else_branch=other))
        elif kind == "constant":
            nodes += [node("Exp", ["w"], [f"{y}e"]), node("ReduceMean", [f"{y}e"], [f"{y}c"], keepdims=0)]
            nodes.append(node("Div", [x, f"{y}c"], [y]))
        elif kind == "matmul":
            nodes.append(node("MatMul", [x, "w"], [y]))
        else:
            nodes += [node("Shape", [x], [f"{y}s"]), node("ConstantOfShape", [f"{y}s"], [f"{y}o"])]
            nodes.append(node("Add", [x, f"{y}o"], [y]))
        x = y
    return model([*nodes, node("Sigmoid", [x], ["y"])], {"x": [2, "n", 6]}, ["y"], weights), draw(st.booleans())


@settings(max_examples=25, deadline=None)
@given(chains_of_sizes(), st.integers(2, 9))
def test_folded_networks_answer_as_their_files(drawn: tuple[onnx.ModelProto, bool], n: int) -> None:
    proto, stays_free = drawn
    feeds = [{"x": np.random.default_rng(i).standard_normal((2, n, 6)).astype(np.float32)} for i in (0, 1)]
    graph = opened(proto, *feeds, sizes={"n": "2..9" if stays_free else n})
    if not stays_free:
        assert "Shape" not in kinds(graph)
        assert "If" not in kinds(graph)

"""Networks written operation by operation: control flow, suppression of boxes, sequences, very many operations."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tests.networks.case import Case

GROUP = "Written by hand"
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
Body = tuple[
    Sequence[onnx.NodeProto], Sequence[onnx.ValueInfoProto], Sequence[onnx.ValueInfoProto], dict[str, np.ndarray]
]
"""Operations, inputs, outputs and weights."""


def cases() -> list[Case]:
    """Return every network written by hand."""
    refused = {"class-map": "map", "sequence-output": "sequence"}
    bodies: dict[str, tuple[Callable[[], Body], str]] = {
        "if-known": (if_known, "If whose condition follows from sizes, nested"),
        "if-by-data": (if_by_data, "If whose condition depends on values"),
        "loop-fixed": (loop_fixed, "Loop of known length"),
        "scan": (scan, "Scan over time"),
        "detector-nms": (detector, "Convolutions, NonMaxSuppression, gathered boxes"),
        "top-boxes": (top_boxes, "NonZero and TopK: sizes that depend on data"),
        "sequence-inside": (sequence_inside, "SplitToSequence and ConcatFromSequence inside"),
        "shared-mask": (shared_mask, "A mask that twelve blocks read"),
        "reshape-minus-one": (reshape_minus_one, "Batch axis of -1 in Reshape"),
        "one-operation": (one_operation, "One operation, nothing to cut"),
        "passed-through": (passed_through, "An output that is also an input of later operations"),
        "chain-2000": (lambda: chain(2000), "2,000 operations in a row"),
        "chain-20000": (lambda: chain(20000), "20,000 operations in a row"),
        "branches-2000": (lambda: ladder(500), "2,000 operations with side branches"),
        "not-finite": (not_finite, "NaN and infinities inside"),
        "strings": (strings, "Text inside"),
        "class-map": (class_map, "A map of classes as output"),
        "sequence-output": (sequence_output, "A sequence as output"),
    }
    return [
        Case(name, GROUP, source, f"{name}.onnx", lambda path, b=body: _save(path, b), refusal=refused.get(name, ""))
        for name, (body, source) in bodies.items()
    ]


def _save(path: Path, body: Callable[[], Body]) -> None:
    nodes, inputs, outputs, weights = body()
    values = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(list(nodes), path.stem, list(inputs), list(outputs), values)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


def value(name: str, *shape: int | str | None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    """Return the description of a tensor."""
    return helper.make_tensor_value_info(name, kind, list(shape))


node = helper.make_node


def rows(*shape: int) -> np.ndarray:
    """Return normal noise of some shape, the same each time."""
    return (np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape) / 4).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    """Return an array of 64-bit integers."""
    return np.array(values, np.int64)


def _branch(name: str, kind: str, source: str) -> onnx.GraphProto:
    return helper.make_graph([node(kind, [source], [f"{name}_out"])], name, [], [value(f"{name}_out", None, None)])


def if_known() -> Body:
    inner = node(
        "If", ["few"], ["inner"], then_branch=_branch("a", "Relu", "h"), else_branch=_branch("b", "Sigmoid", "h")
    )
    outer = helper.make_graph([inner], "outer", [], [value("inner", None, None)])
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Shape", ["h"], ["sizes"]),
        node("Gather", ["sizes", "one"], ["width"]),
        node("Less", ["width", "limit"], ["few"]),
        node("Equal", ["width", "wide"], ["known"]),
        node("If", ["known"], ["y"], then_branch=outer, else_branch=_branch("c", "Tanh", "h")),
        node("MatMul", ["y", "v"], ["z"]),
    ]
    weights = {"w": rows(8, 16), "v": rows(16, 4), "one": np.array(1), "limit": np.array(99), "wide": np.array(16)}
    return nodes, [value("x", 1, 8)], [value("z", 1, 4)], weights


def if_by_data() -> Body:
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("ReduceSum", ["h"], ["total"], keepdims=0),
        node("Greater", ["total", "zero"], ["positive"]),
        node("If", ["positive"], ["y"], then_branch=_branch("a", "Relu", "h"), else_branch=_branch("b", "Neg", "h")),
        node("MatMul", ["y", "v"], ["z"]),
    ]
    return (
        nodes,
        [value("x", 1, 8)],
        [value("z", 1, 4)],
        {"w": rows(8, 16), "v": rows(16, 4), "zero": np.array(0, np.float32)},
    )


def loop_fixed() -> Body:
    body = helper.make_graph(
        [
            node("MatMul", ["state", "w"], ["turned"]),
            node("Tanh", ["turned"], ["next"]),
            node("Identity", ["go"], ["go_on"]),
            node("Identity", ["next"], ["each"]),
        ],
        "body",
        [value("i", kind=INT64), value("go", kind=BOOL), value("state", 1, 8)],
        [value("go_on", kind=BOOL), value("next", 1, 8), value("each", 1, 8)],
    )
    nodes = [
        node("Relu", ["x"], ["start"]),
        node("Loop", ["count", "true", "start"], ["last", "all"], body=body),
        node("MatMul", ["last", "v"], ["y"]),
    ]
    weights = {"w": rows(8, 8), "v": rows(8, 3), "count": np.array(5), "true": np.array(True)}
    return nodes, [value("x", 1, 8)], [value("y", 1, 3), value("all", 5, 1, 8)], weights


def scan() -> Body:
    body = helper.make_graph(
        [node("Add", ["state", "x_t"], ["sum"]), node("Tanh", ["sum"], ["next"]), node("Identity", ["next"], ["y_t"])],
        "body",
        [value("state", 4), value("x_t", 4)],
        [value("next", 4), value("y_t", 4)],
    )
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Scan", ["zero", "h"], ["last", "all"], body=body, num_scan_inputs=1),
        node("MatMul", ["all", "v"], ["y"]),
    ]
    weights = {"w": rows(8, 4), "v": rows(4, 3), "zero": np.zeros(4, np.float32)}
    return nodes, [value("x", 6, 8)], [value("y", 6, 3), value("last", 4)], weights


def detector() -> Body:
    nodes = [
        node("Conv", ["images", "w1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["c2"], ["r2"]),
        node("Conv", ["r2", "wb"], ["b1"]),
        node("Reshape", ["b1", "as_boxes"], ["b2"]),
        node("Transpose", ["b2"], ["b3"], perm=[0, 2, 1]),
        node("Sigmoid", ["b3"], ["boxes"]),
        node("Conv", ["r2", "ws"], ["s1"]),
        node("Reshape", ["s1", "as_scores"], ["s2"]),
        node("Sigmoid", ["s2"], ["scores"]),
        node("NonMaxSuppression", ["boxes", "scores", "most", "overlap", "least"], ["chosen"]),
        node("Gather", ["chosen", "two"], ["index"], axis=1),
        node("Squeeze", ["boxes", "axis0"], ["flat"]),
        node("Gather", ["flat", "index"], ["kept"]),
    ]
    weights = {
        "w1": rows(8, 3, 3, 3),
        "w2": rows(16, 8, 3, 3),
        "wb": rows(4, 16, 1, 1),
        "ws": rows(2, 16, 1, 1),
        "as_boxes": ints(0, 4, -1),
        "as_scores": ints(0, 2, -1),
        "most": ints(5),
        "overlap": np.float32([0.5]),
        "least": np.float32([0.2]),
        "two": np.array(2),
        "axis0": ints(0),
    }
    outputs = [value("kept", None, 4), value("chosen", None, 3, kind=INT64)]
    return nodes, [value("images", 1, 3, 32, 32)], outputs, weights


def top_boxes() -> Body:
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("NonZero", ["r"], ["places"]),
        node("Transpose", ["places"], ["rows"]),
        node("GatherND", ["r", "rows"], ["positive"]),
        node("TopK", ["r", "three"], ["best", "where"]),
    ]
    outputs = [value("positive", None), value("best", 1, 3), value("where", 1, 3, kind=INT64)]
    return nodes, [value("x", 1, 8)], outputs, {"w": rows(8, 16), "three": ints(3)}


def sequence_inside() -> Body:
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("SplitToSequence", ["h", "four"], ["parts"], axis=1),
        node("SequenceAt", ["parts", "one"], ["second"]),
        node("ConcatFromSequence", ["parts"], ["again"], axis=0),
        node("MatMul", ["again", "v"], ["y"]),
        node("Add", ["y", "second"], ["z"]),
    ]
    weights = {"w": rows(8, 16), "v": rows(4, 4), "four": np.array(4), "one": np.array(1)}
    return nodes, [value("x", 1, 8)], [value("z", 4, 4)], weights


def shared_mask() -> Body:
    nodes = [node("Mul", ["m", "ten"], ["mask"])]
    for i in range(12):
        source = f"x{i}" if i else "x"
        nodes += [
            node("MatMul", [source, "w"], [f"h{i}"]),
            node("Add", [f"h{i}", "mask"], [f"a{i}"]),
            node("Tanh", [f"a{i}"], [f"x{i + 1}"]),
        ]
    return (
        nodes,
        [value("x", 1, 16), value("m", 1, 16)],
        [value("x12", 1, 16)],
        {"w": rows(16, 16), "ten": np.array(10, np.float32)},
    )


def reshape_minus_one() -> Body:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Reshape", ["c", "flat"], ["r"]),
        node("MatMul", ["r", "v"], ["y"]),
    ]
    weights = {"w": rows(4, 3, 3, 3), "v": rows(144, 5), "flat": ints(-1, 144)}
    return nodes, [value("x", "N", 3, 8, 8)], [value("y", "N", 5)], weights


def one_operation() -> Body:
    return [node("Sigmoid", ["x"], ["y"])], [value("x", 1, 8)], [value("y", 1, 8)], {}


def passed_through() -> Body:
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "v"], ["y"])]
    return nodes, [value("x", 1, 8)], [value("h", 1, 16), value("y", 1, 4)], {"w": rows(8, 16), "v": rows(16, 4)}


def chain(count: int) -> Body:
    """Return a chain of products with weights of their own, with an activation after each."""
    nodes, weights, last = [], {}, "x"
    for i in range(count // 2):
        weights[f"w{i}"] = rows(8, 8) * np.float32(2)
        nodes += [node("MatMul", [last, f"w{i}"], [f"h{i}"]), node("Tanh", [f"h{i}"], [f"y{i}"])]
        last = f"y{i}"
    return nodes, [value("x", 1, 8)], [value(last, 1, 8)], weights


def ladder(count: int) -> Body:
    """Return blocks with a side branch each; a few blocks read what the first one made."""
    nodes, last = [node("Tanh", ["x"], ["first"])], "first"
    for i in range(count):
        nodes += [
            node("MatMul", [last, "w"], [f"a{i}"]),
            node("Sigmoid", [last], [f"b{i}"]),
            node("Mul", [f"a{i}", f"b{i}"], [f"c{i}"]),
            node("Add", [f"c{i}", last if i % 50 else "first"], [f"d{i}"]),
        ]
        last = f"d{i}"
    return nodes, [value("x", 1, 8)], [value(last, 1, 8)], {"w": rows(8, 8)}


def not_finite() -> Body:
    nodes = [
        node("Log", ["x"], ["l"]),
        node("Div", ["x", "zero"], ["d"]),
        node("Concat", ["l", "d"], ["c"], axis=1),
        node("Identity", ["c"], ["i"]),
        node("Relu", ["i"], ["r"]),
        node("IsNaN", ["i"], ["n"]),
        node("Cast", ["n"], ["f"], to=FLOAT),
        node("Add", ["r", "f"], ["y"]),
    ]
    return nodes, [value("x", 1, 8)], [value("y", 1, 16)], {"zero": np.zeros(1, np.float32)}


def strings() -> Body:
    nodes = [
        node("LabelEncoder", ["x"], ["s"], domain="ai.onnx.ml", keys_int64s=[0, 1], values_strings=["no", "yes"]),
        node("LabelEncoder", ["s"], ["y"], domain="ai.onnx.ml", keys_strings=["no", "yes"], values_floats=[1.0, 2.0]),
    ]
    return nodes, [value("x", 1, 4, kind=INT64)], [value("y", 1, 4)], {}


def class_map() -> Body:
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Softmax", ["h"], ["p"]),
        node("ZipMap", ["p"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]),
    ]
    kind = helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, []))
    output = helper.make_value_info("y", helper.make_sequence_type_proto(kind))
    return nodes, [value("x", 1, 4)], [output], {"w": rows(4, 3)}


def sequence_output() -> Body:
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("SplitToSequence", ["h", "two"], ["parts"], axis=1)]
    output = helper.make_tensor_sequence_value_info("parts", FLOAT, [1, 2])
    return nodes, [value("x", 1, 4)], [output], {"w": rows(4, 4), "two": np.array(2)}

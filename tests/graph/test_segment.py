from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from tests.graph.small_graphs import perceptron, run
from tests.graph.test_ir import two_exits

from coinfer.graph.ir import GraphError
from coinfer.graph.onnx.load import from_proto, load
from coinfer.graph.segment import save, save_model, segment, split
from coinfer.graph.session import open_session
from coinfer.graph.zoo.networks import build


def test_a_segment_is_small_and_names_its_weights() -> None:
    graph = build("vgg16-cifar")
    tail = segment(graph, ("pool4",), ("logits",))
    assert len(tail.proto.SerializeToString()) < 4096
    assert set(tail.weights) == {
        f"{layer}.{part}" for layer in ("conv5_1", "conv5_2", "conv5_3", "logits") for part in ("weight", "bias")
    }
    assert [value.name for value in tail.proto.graph.input] == ["pool4"]


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (("h",), ("x",), "cannot compute x from h: graph input 'x' is needed too"),
        ((), ("y",), "cannot compute y from nothing"),
        (("x",), ("nowhere",), "no tensor 'nowhere' in this network"),
        (("there", "x"), ("y", "where"), "no tensor 'there', 'where'"),
        (("x",), (), "no outputs asked for; the network's own are y"),
        (("x", "x"), ("y",), "'x' is named twice"),
        (("x",), ("y", "y"), "'y' is named twice"),
        (("x",), ("w1",), "no tensor 'w1'"),
    ],
)
def test_segments_that_cannot_be(inputs: tuple[str, ...], outputs: tuple[str, ...], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        segment(from_proto(perceptron(), "mlp"), inputs, outputs)


def test_a_tensor_may_pass_through_and_inputs_may_be_of_no_use() -> None:
    graph = from_proto(perceptron(), "mlp")
    values = {"x": np.ones((2, 4), np.float32), "r": np.full((2, 8), 0.5, np.float32)}
    outputs = run(graph, values, ("r", "y"))
    np.testing.assert_array_equal(outputs["r"], values["r"])
    expected = values["r"] @ graph.weights["w2"].T + graph.weights["b2"]
    np.testing.assert_allclose(outputs["y"], expected, rtol=1e-5)
    np.testing.assert_array_equal(run(graph, values, ("x",))["x"], values["x"])


def test_split_leads_from_the_input_to_one_exit() -> None:
    pieces = split(two_exits(), [("a",)], exit=1)
    assert [(piece.inputs, piece.outputs, piece.weights) for piece in pieces] == [
        (("x",), ("a",), ()),
        (("a",), ("late",), ("w2",)),
    ]
    assert [piece.weights for piece in split(two_exits(), [], exit=0)] == [("w1",)]


def test_split_refuses_cuts_out_of_order_and_exits_that_are_not_there() -> None:
    graph = build("nin")
    cuts = graph.useful_cuts()
    with pytest.raises(GraphError, match="cannot compute"):
        split(graph, [cuts[5], cuts[2]])
    for exit in (-1, 1):
        with pytest.raises(GraphError, match=f"no exit {exit}; it has exits 0 to 0"):
            split(graph, [], exit=exit)


def test_saved_segments_run_from_files_and_hold_weights_once(tmp_path: Path) -> None:
    graph = build("resnet32")
    cuts = graph.useful_cuts()
    pieces = split(graph, [cuts[4], cuts[11]])
    paths = save(graph, pieces, tmp_path / "out")
    assert [path.name for path in paths] == ["resnet32.0.onnx", "resnet32.1.onnx", "resnet32.2.onnx"]
    assert all(path.stat().st_size < 16_384 for path in paths)
    size_bytes = (tmp_path / "out" / "resnet32.weights").stat().st_size
    assert 4 * graph.params <= size_bytes < 4 * graph.params + 4096 * len(graph.weights)
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    theirs, ours = {"input": x}, {"input": x}
    for path, piece in zip(paths, pieces, strict=True):
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        theirs = dict(zip(piece.outputs, session.run(list(piece.outputs), theirs), strict=True))
        loaded = load(path)
        ours = run(loaded, ours, loaded.outputs)
    truth = run(graph, {"input": x}, graph.outputs)["logits"]
    np.testing.assert_allclose(theirs["logits"], truth, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours["logits"], truth, rtol=1e-4, atol=1e-5)


def test_a_saved_network_is_the_same_network(tmp_path: Path) -> None:
    graph = build("alexnet-cifar")
    save_model(graph, tmp_path / "net.onnx")
    again = load(tmp_path / "net.onnx")
    assert (again.fingerprint, again.image, again.ops) == (graph.fingerprint, graph.image, graph.ops)
    x = np.zeros((1, 3, 32, 32), np.float32)
    stock = ort.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    ours = run(graph, {"input": x}, ("logits",))["logits"]
    np.testing.assert_allclose(stock.run(None, {"input": x})[0], ours, rtol=1e-4, atol=1e-5)


def test_sessions_borrow_the_weights() -> None:
    graph = from_proto(perceptron(), "mlp")
    session = open_session(graph, segment(graph, ("r",), ("y",)))
    assert {value.data_ptr() for value in session.borrowed} == {
        graph.weights[name].ctypes.data for name in ("w2", "b2")
    }

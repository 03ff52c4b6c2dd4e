import gc

import numpy as np
import pytest
from tests.graph.small_graphs import perceptron, relative_error

from coinfer.graph import session as session_module
from coinfer.graph.ir import GraphError
from coinfer.graph.layout import HELD, hold_layout
from coinfer.graph.onnx.load import from_proto
from coinfer.graph.segment import segment
from coinfer.graph.session import open_session, session_options
from coinfer.graph.zoo import networks

RESNET = networks.build("resnet32")
RESIDUAL = "layer1.2.relu"


def residual_input() -> dict[str, np.ndarray]:
    shape = RESNET.tensors[RESIDUAL].shape
    return {RESIDUAL: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


def test_weights_are_borrowed_not_copied():
    graph = from_proto(perceptron(), "perceptron")
    piece = segment(graph, graph.inputs, graph.outputs)
    session = open_session(graph, piece)
    addresses = {value.data_ptr() for value in session.borrowed}
    assert addresses == {graph.weights[name].ctypes.data for name in piece.weights}


def test_a_session_outlives_its_graph():
    graph = from_proto(perceptron(), "perceptron")
    session = open_session(graph, segment(graph, graph.inputs, graph.outputs))
    x = np.ones((2, 4), np.float32)
    before = session.run(None, {"x": x})[0]
    del graph
    gc.collect()
    _ = [np.random.default_rng(i).standard_normal(1000) for i in range(100)]  # takes freed memory
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], before)


def test_weights_in_any_memory_order_give_the_same_answer():
    graph = from_proto(perceptron(), "perceptron")
    x = np.ones((1, 4), np.float32)
    whole = segment(graph, graph.inputs, graph.outputs)
    expected = open_session(graph, whole).run(None, {"x": x})[0]
    for name in graph.weights:
        graph.weights[name] = np.asfortranarray(graph.weights[name])  # pyright: ignore[reportIndexIssue]
    np.testing.assert_array_equal(open_session(graph, whole).run(None, {"x": x})[0], expected)


def test_threads_do_not_spin_and_operations_run_in_sequence():
    options = session_options(3)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)


def test_large_networks_answer_alike_without_the_search_for_memory_to_take_over(monkeypatch: pytest.MonkeyPatch):
    piece = segment(RESNET, RESNET.inputs, RESNET.outputs)
    x = {"input": np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)}
    small = open_session(RESNET, piece)
    monkeypatch.setattr(session_module, "_REUSE_OPERATIONS", len(piece.proto.graph.node) - 1)
    large = open_session(RESNET, piece)
    assert [session.get_session_options().enable_mem_reuse for session in (small, large)] == [True, False]
    np.testing.assert_array_equal(large.run(None, x)[0], small.run(None, x)[0])


def test_an_absent_provider_is_refused_with_those_present():
    piece = segment(RESNET, RESNET.inputs, RESNET.outputs)
    with pytest.raises(GraphError, match=r"no execution provider 'AbacusExecutionProvider'.*CPUExecutionProvider"):
        open_session(RESNET, piece, providers=("AbacusExecutionProvider",))


def test_what_the_executor_cannot_run_is_refused_in_one_line():
    graph = from_proto(perceptron(), "perceptron")
    piece = segment(graph, graph.inputs, graph.outputs)
    piece.proto.graph.node[1].op_type = "Unheard"
    with pytest.raises(GraphError, match=r"ONNX Runtime refuses segment perceptron: x -> y: .*Unheard") as refusal:
        open_session(graph, piece)
    assert "\n" not in str(refusal.value)


def test_a_residual_input_is_brought_into_the_layout_once():
    proto = segment(RESNET, (RESIDUAL,), RESNET.outputs).proto
    changed = hold_layout(proto, RESNET.blocked_tensors)
    assert changed.graph.node[0].op_type == "AveragePool"
    assert len(changed.graph.node) == len(proto.graph.node) + 1
    readers = [node.op_type for node in changed.graph.node if RESIDUAL + HELD in node.input]
    assert sorted(readers) == ["Add", "Conv"]
    assert [node.op_type for node in changed.graph.node if RESIDUAL in node.input] == ["AveragePool"]
    assert len(proto.graph.node) == len(segment(RESNET, (RESIDUAL,), RESNET.outputs).proto.graph.node)


def test_an_input_that_only_the_sum_reads_is_brought_into_the_layout_too():
    proto = segment(RESNET, ("layer1.3.conv1.relu", RESIDUAL), RESNET.outputs).proto
    assert [
        node.input[0] for node in hold_layout(proto, RESNET.blocked_tensors).graph.node if node.op_type == "AveragePool"
    ] == [RESIDUAL]


@pytest.mark.parametrize("inputs", [RESNET.inputs, ("pool.flat",)])
def test_other_segments_are_left_alone(inputs):
    proto = segment(RESNET, inputs, RESNET.outputs).proto
    assert hold_layout(proto, RESNET.blocked_tensors) is proto


def test_holding_the_layout_changes_no_answer(monkeypatch):
    piece = segment(RESNET, (RESIDUAL,), RESNET.outputs)
    answers = []
    for blocked in (False, True):
        monkeypatch.setattr(session_module, "_BLOCKED_LAYOUT", blocked)
        answers.append(open_session(RESNET, piece).run(None, residual_input())[0])
    assert relative_error(answers[0], answers[1]) < 1e-5


def test_a_tensor_handed_on_keeps_its_name_and_value():
    piece = segment(RESNET, (RESIDUAL,), (RESIDUAL, *RESNET.outputs))
    values = residual_input()
    np.testing.assert_array_equal(open_session(RESNET, piece).run([RESIDUAL], values)[0], values[RESIDUAL])

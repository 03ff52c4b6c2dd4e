"""Options of plain networks and of networks with exits: every way to run them is there, with what it costs."""

import numpy as np
import pytest
from onnx import helper
from tests.graph.small_graphs import model, perceptron
from tests.tables import analytic_table, made_up_accuracy

from coinfer.graph.onnx.load import from_proto
from coinfer.graph.zoo import early_exits, networks
from coinfer.options.compile import compile_options, exits_of
from coinfer.profile.accuracy import AccuracyError, AccuracyTable
from coinfer.profile.measure import Engine, cut_tensors, measure
from coinfer.profile.payloads import Codec
from coinfer.profile.samples import random_samples
from coinfer.profile.table import ProfileError
from coinfer.runtime.measure_accuracy import measurement_plan

PLAIN = networks.build("alexnet-cifar")
GRAPH = early_exits.build("alexnet-cifar-exits")
TABLE, ACCURACY = analytic_table(GRAPH), made_up_accuracy(GRAPH)
BITS = (32, 16, 8, 4)
OPTIONS = compile_options(GRAPH, TABLE, BITS, ACCURACY)


def test_every_exit_cut_and_number_of_bits_is_there_once():
    expected = []
    for exit_, output in enumerate(GRAPH.outputs):
        cuts = [cut.tensors for cut in GRAPH.pruned((output,)).useful_cuts()]
        expected += [(exit_, cuts[0], 8)]  # a picture is sent as its own bytes
        expected += [(exit_, cut, width) for cut in cuts[1:-1] for width in BITS]
        expected += [(exit_, (output,), 32)]
    assert OPTIONS.triples == expected
    assert OPTIONS.outputs == tuple((GRAPH.outputs[exit_],) for exit_, _, _ in expected)


def test_each_exit_stays_on_the_device_once_and_the_last_of_all_does():
    stays = np.flatnonzero(OPTIONS.upload_bits == 0)
    assert OPTIONS.exit[stays].tolist() == [0, 1, 2]
    assert stays[-1] == len(OPTIONS.bits) - 1
    assert all(OPTIONS.server_s[i] == 0 and OPTIONS.cuts[i] == OPTIONS.outputs[i] for i in stays)


def test_times_are_of_the_operations_that_the_exit_needs():
    """Against the exit's own network, profiled as one."""
    for exit_, output in enumerate(GRAPH.outputs):
        alone = GRAPH.pruned((output,))
        needed = GRAPH.needed(GRAPH.inputs, (output,))
        one = analytic_table(alone).with_op_s([TABLE.op_s[i] for i in needed])
        own = compile_options(alone, one, BITS)
        mine = OPTIONS.take(np.flatnonzero(OPTIONS.exit == exit_))
        assert mine.cuts == own.cuts
        codec_s = 1e-3 * TABLE.whole_s  # coding is scaled with the machine in one table and not in the other
        np.testing.assert_allclose(mine.device_s, own.device_s, atol=codec_s)
        np.testing.assert_allclose(mine.server_s, own.server_s, atol=codec_s)


def test_what_is_sent_is_encoded_on_the_device_and_decoded_on_the_server():
    """With a codec so slow that nothing else counts, each number of bits at a speed of its own."""
    slow = TABLE.model_copy(
        update={
            "encode_s_per_byte": {width: 1.0 * width for width in (*BITS, 12)},
            "decode_s_per_byte": {width: 0.1 * width for width in (*BITS, 12)},
        }
    )
    options = compile_options(GRAPH, slow, BITS, ACCURACY)
    sent_bytes = np.array([sum(GRAPH.tensors[name].elements * 4 for name in cut) for cut in options.cuts])
    sent_bytes[options.upload_bits == 0] = 0
    spare_s = TABLE.whole_s
    np.testing.assert_allclose(options.device_s, sent_bytes * options.bits, atol=spare_s)
    np.testing.assert_allclose(options.server_s[:, 0], 0.1 * sent_bytes * options.bits, atol=spare_s)


def test_accuracy_is_the_tables_and_nothing_is_lost_where_nothing_is_quantised():
    for (exit_, cut, width), accuracy in zip(OPTIONS.triples, OPTIONS.accuracy, strict=True):
        exact = cut in (GRAPH.inputs, (GRAPH.outputs[exit_],)) or width == 32
        expected = ACCURACY.exits[exit_] / 1000 if exact else ACCURACY.accuracy(exit_, cut, width)
        assert accuracy == expected


def test_whole_numbers_are_sent_as_they_are_whatever_is_allowed():
    scale, zero = np.array(0.1, np.float32), np.array(128, np.uint8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantise"),
        helper.make_node("MaxPool", ["q"], ["m"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("DequantizeLinear", ["m", "s", "z"], ["d"], "dequantise"),
        helper.make_node("GlobalAveragePool", ["d"], ["y"], "mean"),
    ]
    graph = from_proto(model(nodes, {"x": [1, 1, 4, 4]}, ["y"], {"s": scale, "z": zero}), "int8")
    triples = compile_options(graph, analytic_table(graph), (16, 8)).triples
    assert {bits for _, cut, bits in triples if cut == ("m",)} == {32}
    assert measurement_plan(graph, (16, 8)).cuts.keys() <= {("d",)}


def test_without_an_accuracy_table_all_outputs_are_one_answer():
    options = compile_options(GRAPH, TABLE, BITS)
    assert set(options.exit.tolist()) == {0}
    assert set(options.outputs) == {GRAPH.outputs} == set(exits_of(GRAPH, None))
    assert (compile_options(PLAIN, analytic_table(PLAIN)).accuracy == 1).all()


def test_take_keeps_rows_together():
    few = OPTIONS.take(np.array([0, 5, len(OPTIONS.bits) - 1]))
    assert few.triples == [OPTIONS.triples[i] for i in (0, 5, -1)]
    assert few.pieces == tuple(OPTIONS.pieces[i] for i in (0, 5, -1))
    np.testing.assert_array_equal(few.device_s, OPTIONS.device_s[[0, 5, -1]])


def test_tables_of_other_networks_are_refused_in_one_line():
    with pytest.raises(AccuracyError, match=r"measured on network 'alexnet-cifar-exits' .* not on 'alexnet-cifar'"):
        compile_options(PLAIN, analytic_table(PLAIN), BITS, ACCURACY)
    other = early_exits.build("alexnet-cifar-exits", seed=1)
    with pytest.raises(AccuracyError, match="measured on network"):
        compile_options(other, analytic_table(other), BITS, ACCURACY)
    fewer = ACCURACY.model_copy(update={"exits": ACCURACY.exits[:2]})
    with pytest.raises(AccuracyError, match=r"2 exits\), not on .* 3 exits"):
        compile_options(GRAPH, TABLE, BITS, fewer)
    with pytest.raises(AccuracyError, match=r"exit 0, cut conv1\.relu, 16 bits was not measured"):
        compile_options(GRAPH, TABLE, BITS, AccuracyTable(**{**ACCURACY.model_dump(), "rows": ACCURACY.rows[2:]}))


def test_a_profile_without_the_exits_own_tensors_says_what_to_do():
    short = TABLE.model_copy(update={"payload_bits": {"input": TABLE.payload_bits["input"]}})
    with pytest.raises(ProfileError, match=r"no size of tensor 'conv1\.relu' at 32 bits: profile it anew"):
        compile_options(GRAPH, short, BITS, ACCURACY)


def test_a_profile_measures_what_any_exit_may_send():
    flat = Codec(lambda x: x.tobytes(), lambda b: np.frombuffer(b, np.float32))
    table = measure(GRAPH, random_samples(GRAPH), {32: flat, 8: flat}, engine=Engine(), repeats=3)
    assert set(table.payload_bits) == set(cut_tensors(GRAPH))
    assert {"pool1", "pool2", "exit1.fc.relu", "exit2.pool.flat", "drop2"} <= set(cut_tensors(GRAPH))
    options = compile_options(GRAPH, table, (32,), ACCURACY)
    ends = [options.device_s[i] for i in np.flatnonzero(options.upload_bits == 0)]
    assert 0 < ends[0] < ends[1] < ends[2] < table.whole_s


def test_an_output_that_the_network_reads_on_can_be_measured():
    """h is an answer by itself and leads to y."""
    proto = perceptron()
    nodes, weights = list(proto.graph.node), {}
    for tensor in proto.graph.initializer:
        weights[tensor.name] = np.frombuffer(tensor.raw_data, np.float32).reshape(tensor.dims)
    graph = from_proto(model(nodes, {"x": ["N", 4]}, ["r", "y"], weights), "two")
    table = measure(graph, random_samples(graph), engine=Engine(), repeats=1)
    table.check(graph)
    assert set(cut_tensors(graph)) == {"x", "r"}

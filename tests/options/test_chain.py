"""Options from a network table against those from the graph itself."""

import numpy as np
import pytest
from tests.exit_training.bottlenecks import bottleneck_with_exits, profile, rated, with_accuracy
from tests.tables import analytic_table, made_up_accuracy

from coinfer.graph.zoo import networks
from coinfer.options.chain import Encoding, SizeError, Speed, chain_options
from coinfer.options.compile import compile_options
from coinfer.options.earned import offered_options
from coinfer.options.network import network_table
from coinfer.options.table import Options, full_accuracy, measured_accuracy, stated_accuracy


@pytest.mark.parametrize("name", ["nin", "resnet32", "alexnet-cifar"])
def test_the_chain_and_the_graph_give_the_same_table(name: str):
    """One network, one machine: what the simulator compiles is what the runtime's planner compiles."""
    graph = networks.build(name)
    profile = analytic_table(graph)
    speed = Speed(network_table(graph, [profile]), 1.0, None)
    ours = chain_options(speed, [speed], [0], Encoding((8, 4)), full_accuracy)
    theirs = compile_options(graph, profile, (8, 4))
    assert (ours.triples, ours.pieces, ours.sidecar_triples) == (theirs.triples, theirs.pieces, theirs.sidecar_triples)
    for column in ("device_s", "upload_bits", "server_s", "accuracy"):
        np.testing.assert_allclose(getattr(ours, column), getattr(theirs, column), rtol=1e-9)


def test_each_server_has_its_own_times():
    graph = networks.build("nin")
    table = network_table(graph, [analytic_table(graph)])
    speeds = [Speed(table, factor, None) for factor in (1.0, 3.0)]
    both = chain_options(speeds[0], speeds, [0], Encoding((8,)), full_accuracy)
    np.testing.assert_allclose(both.server_s[:, 1], 3 * both.server_s[:, 0])
    assert (both.server_s[~both.is_local] > 0).all()
    rate_bps = np.array([1e6, 1e7])
    latency_s = both.latency_s(rate_bps)
    np.testing.assert_allclose(latency_s[both.is_local], both.device_s[both.is_local][:, None].repeat(2, axis=1))
    away_s = both.device_s[:, None] + both.upload_bits[:, None] / rate_bps + both.server_s
    np.testing.assert_allclose(latency_s[~both.is_local], away_s[~both.is_local])


def test_an_unknown_size_is_named():
    graph = networks.build("nin")
    table = network_table(graph, [analytic_table(graph)])
    cuts = [cut.model_copy(update={"payload_bits": {8: 1e5}}) for cut in table.exits[0]]
    speed = Speed(table.model_copy(update={"exits": (tuple(cuts),)}), 1.0, None)
    with pytest.raises(SizeError, match=r"^no measured size of tensor '\S+' at 4 bits$"):
        chain_options(speed, [speed], [0], Encoding((8, 4)), full_accuracy)


def test_stated_accuracy_loses_what_is_said_for_so_many_bits():
    accuracy = stated_accuracy({0: 0.6, 2: 0.02}, {4: 0.05})
    assert accuracy(0, ("t",), 4) == pytest.approx(0.55)
    assert accuracy(0, ("t",), 8) == accuracy(0, (), 4) == 0.6
    assert accuracy(2, ("t",), 4) == 0.0


def test_codes_of_a_bottleneck_are_options_of_the_chain_as_of_the_graph():
    graph = rated({"code2": 80, "code4": 90})
    measured = profile(graph)
    table = network_table(graph, [measured], measured.bottleneck)
    assert graph.bottleneck is not None
    assert [code.device_flop + code.server_flop for code in table.codes] == pytest.approx(
        [graph.bottleneck.graph.pruned((code.answer,)).work_flop for code in table.codes]
    )
    assert table.model_validate_json(table.model_dump_json()) == table

    def options(speed: Speed, *, plain: bool = False) -> Options:
        every = chain_options(speed, [speed], [0], Encoding((8,), plain=plain, codes=True), full_accuracy)
        return every.take(np.array([graph.part(cut) is not graph for cut in every.cuts]))

    ours = options(Speed(table, 1.0, None))
    theirs = compile_options(graph, measured, (8,), codes=graph.bottleneck.codes)
    theirs = theirs.take(np.array([graph.part(cut) is not graph for cut in theirs.cuts]))
    assert (ours.triples, ours.pieces) == (theirs.triples, theirs.pieces)
    assert ours.triples == [(0, ("code2",), 2), (0, ("code4",), 2)]
    for column in ("device_s", "upload_bits", "server_s", "accuracy"):
        np.testing.assert_allclose(getattr(ours, column), getattr(theirs, column))
    assert ours.accuracy.tolist() == pytest.approx([0.9, 1.0])
    slow = options(Speed(table, 3.0, None), plain=True)
    np.testing.assert_allclose(slow.device_s, 3 * ours.device_s)
    assert slow.upload_bits.tolist() == [2 * 2 * 16, 4 * 2 * 16]
    arithmetic = options(Speed(table, 1.0, 1e6))
    np.testing.assert_allclose(arithmetic.device_s, [code.device_flop / 1e6 for code in table.codes])
    without = chain_options(Speed(table, 1.0, None), [Speed(table, 1.0, None)], [0], Encoding((8,)), full_accuracy)
    assert not any(graph.part(cut) is not graph for cut in without.cuts)


def test_every_exit_behind_a_bottleneck_answers_from_each_code():
    correct = {("code2", "exit2"): 60, ("code2", "logits"): 70, ("code4", "exit2"): 88, ("code4", "logits"): 80}
    graph = with_accuracy(bottleneck_with_exits(), lambda code, output: correct[code, output])
    measured, accuracy = profile(graph), made_up_accuracy(graph)
    assert graph.bottleneck is not None
    tables = [analytic_table(graph.pruned((output,)), 20.0) for output in graph.outputs]
    speed = Speed(network_table(graph, tables, measured.bottleneck), 1.0, None)
    encoding = Encoding((8,), codes=True)
    ours = chain_options(speed, [speed], [0, 1, 2], encoding, measured_accuracy(accuracy))
    theirs = compile_options(graph, measured, (8,), accuracy, codes=graph.bottleneck.codes)
    ours, theirs = (
        every.take(np.array([graph.part(cut) is not graph for cut in every.cuts])) for every in (ours, theirs)
    )
    assert ours.triples == [(exit_, (code,), 2) for exit_ in (1, 2) for code in ("code2", "code4")]
    assert (ours.triples, ours.pieces) == (theirs.triples, theirs.pieces)
    for column in ("device_s", "upload_bits", "server_s", "accuracy"):
        np.testing.assert_allclose(getattr(ours, column), getattr(theirs, column))
    assert ours.server_s[:, 0].tolist() == [4.0, 4.0, 10.0, 10.0], "an earlier exit is sooner"
    assert ours.accuracy.tolist() == pytest.approx([0.74 - 0.3, 0.74 - 0.02, 0.78 - 0.2, 0.78 - 0.1])
    offered = offered_options(graph, measured, None, accuracy)
    pieces = [piece for piece in offered.pieces if graph.part(piece[0]) is not graph]
    assert pieces == [], "each loses more than a point"
    correct["code4", "exit2"] = 90
    graph = with_accuracy(bottleneck_with_exits(), lambda code, output: correct[code, output])
    pieces = offered_options(graph, measured, None, accuracy).pieces
    assert [piece for piece in pieces if graph.part(piece[0]) is not graph] == [(("code4",), ("code4/answer/exit2",))]

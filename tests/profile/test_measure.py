import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from tests.graph.small_graphs import dags, perceptron
from tests.patience import one_round_right

from coinfer.graph.ir import ModelGraph
from coinfer.graph.onnx.load import from_proto
from coinfer.graph.zoo import networks
from coinfer.profile.measure import Engine, measure, this_machine
from coinfer.profile.payloads import Codec
from coinfer.profile.samples import random_samples
from coinfer.profile.table import ProfileError, ProfileTable

GRAPH = networks.build("alexnet-cifar")
CUTS = [cut.tensors for cut in GRAPH.useful_cuts()]
PLAIN = Codec(lambda x: x.tobytes(), lambda b: np.frombuffer(b, np.float32))
SHORT = Codec(lambda x: x.tobytes()[::4], lambda b: np.frombuffer(b, np.uint8))


@pytest.fixture(scope="module")
def table() -> ProfileTable:
    codecs = {32: PLAIN, 8: SHORT}
    return measure(GRAPH, random_samples(GRAPH, 2), codecs, input_codecs={8: SHORT}, repeats=25)


def ticking() -> Engine:
    """Every run takes one second of a clock that only counts."""
    ticks = itertools.count()
    return Engine(clock=lambda: float(next(ticks)))


def test_the_parts_explain_the_whole(table):
    table.check(GRAPH)
    assert table.call_s + sum(table.op_s) == pytest.approx(table.whole_s)
    assert table.segment_s(GRAPH, GRAPH.inputs, GRAPH.outputs) == pytest.approx(table.whole_s)


def test_every_group_takes_time_and_arithmetic_most_of_it():
    def play() -> list[str]:
        table = measure(GRAPH, random_samples(GRAPH))
        group_s = [sum(table.op_s[i] for i in group) for group in GRAPH.groups]
        assert min(group_s) > 0
        heavy_s = sum(s for s, op in zip(table.op_s, GRAPH.ops, strict=True) if op.kind in ("Conv", "Gemm"))
        share = heavy_s / sum(table.op_s)
        return [] if share > 0.7 else [f"only {share:.2f} of the time"]

    one_round_right(play)


def test_a_cut_costs_something_and_less_than_the_network(table):
    crossing_s = table.head_s(GRAPH, CUTS) + table.tail_s(GRAPH, CUTS) - table.whole_s
    assert (crossing_s >= -1e-12).all()
    assert (crossing_s[1:-1] > 0).all()
    assert (crossing_s < table.whole_s).all()


def test_ends_are_known_for_every_tensor(table):
    assert set(table.enter_s) == set(table.leave_s) == set(GRAPH.tensors)


def test_payloads_are_those_of_the_codecs(table):
    assert table.payload_bits["input"] == {8: 3 * 32 * 32 * 8}
    size_bits = GRAPH.tensors["pool1"].size_bits
    assert table.payload_bits["pool1"] == {32: size_bits, 8: size_bits / 4}
    assert set(table.payload_bits) == {name for cut in CUTS for name in cut} - set(GRAPH.outputs)
    assert set(table.encode_s_per_byte) == set(table.decode_s_per_byte) == {32, 8}


def test_times_come_from_the_clock_given():
    table = measure(GRAPH, random_samples(GRAPH), engine=ticking(), repeats=5)
    assert (table.whole_s, table.whole_spread_s, table.call_s) == (1.0, 0.0, 0.5)
    assert table.payload_bits == {}


def test_progress_counts_up_to_its_end_and_says_what_comes():
    heard = []
    measure(GRAPH, random_samples(GRAPH, 2), {32: PLAIN}, repeats=1, progress=lambda *step: heard.append(step))
    done, totals, what = zip(*heard, strict=True)
    assert list(done) == list(range(totals[0] + 1))
    assert set(totals) == {len(CUTS) + 2}
    assert any("pool1" in words for words in what)


def test_profiles_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    measure(GRAPH, random_samples(GRAPH), repeats=1)
    assert list(Path(tmp_path).iterdir()) == []


def test_payloads_of_chosen_tensors_only():
    graph = from_proto(perceptron(), "perceptron")
    table = measure(graph, random_samples(graph), {32: PLAIN}, tensors=["h", "r"], repeats=1)
    assert table.payload_bits == {"h": {32: 256.0}, "r": {32: 256.0}}


@given(dags(max_ops=5))
@settings(max_examples=8, deadline=None)
def test_any_graph_can_be_measured(graph: ModelGraph):
    table = measure(graph, random_samples(graph), {32: PLAIN}, engine=ticking(), repeats=1)
    table.check(graph)
    assert table.segment_s(graph, graph.inputs, graph.outputs) == pytest.approx(table.whole_s)
    assert ProfileTable.model_validate_json(table.model_dump_json()) == table


@pytest.mark.parametrize(
    ("samples", "complaint"),
    [
        ([], "no samples to run it on"),
        ([{}], "input 'input' of sample 0 is nothing, expected float32"),
        (
            [{"input": np.zeros((1, 3, 8, 8), np.float32)}],
            r"is float32 \[1, 3, 8, 8\], expected",
        ),
        ([{"input": np.zeros((1, 3, 32, 32))}], "is float64"),
    ],
)
def test_samples_that_do_not_fit_are_refused(samples, complaint):
    with pytest.raises(ProfileError, match=complaint):
        measure(GRAPH, samples)


def test_samples_are_repeatable_and_fit_the_inputs():
    first, again, other = (random_samples(GRAPH, seed=seed)[0]["input"] for seed in (3, 3, 4))
    assert (first.shape, first.dtype) == (GRAPH.tensors["input"].shape, np.float32)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_the_stamp_names_the_machine():
    machine = this_machine()
    assert machine.cpu
    assert machine.cores >= 1
    assert machine.date.endswith("+00:00")


def test_spread_is_measured_for_every_operation_and_is_smaller_than_the_time():
    graph = networks.build("resnet32")

    def play() -> list[str]:
        table = measure(graph, random_samples(graph))
        assert len(table.op_spread_s) == len(graph.ops)
        assert table.with_op_s([1.0] * len(graph.ops)).op_spread_s == ()
        spread_s, took_s = sum(table.op_spread_s), sum(table.op_s)
        return [] if 0 < spread_s < took_s else [f"spread of {spread_s} s in {took_s} s"]

    one_round_right(play)

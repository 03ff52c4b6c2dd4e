import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.graph.small_graphs import perceptron
from tests.tables import analytic_table

from coinfer.graph.ir import GraphError
from coinfer.graph.onnx.load import from_proto
from coinfer.graph.zoo import networks
from coinfer.profile.measure import split_by_work
from coinfer.profile.table import ProfileError, ProfileTable

GRAPH = networks.build("googlenet")
CUTS = [cut.tensors for cut in GRAPH.useful_cuts()]
RNG = np.random.default_rng(0)
TABLE = analytic_table(GRAPH).model_copy(
    update={
        "enter_s": {name: float(RNG.uniform(0, 1e-3)) for name in GRAPH.tensors},
        "leave_s": {name: float(RNG.uniform(0, 1e-3)) for name in GRAPH.tensors},
    }
)


def test_the_whole_network_takes_the_measured_time():
    assert TABLE.segment_s(GRAPH, GRAPH.inputs, GRAPH.outputs) == pytest.approx(TABLE.whole_s)
    assert TABLE.head_s(GRAPH, CUTS)[-1] == pytest.approx(TABLE.whole_s)
    assert TABLE.tail_s(GRAPH, CUTS)[0] == pytest.approx(TABLE.whole_s)


def test_nothing_to_compute_takes_no_time():
    table = TABLE.model_copy(update={"call_s": 1.0})
    assert table.head_s(GRAPH, CUTS)[0] == 0
    assert table.tail_s(GRAPH, CUTS)[-1] == 0
    assert table.segment_s(GRAPH, CUTS[4], CUTS[4]) == 0


@given(st.lists(st.integers(0, len(CUTS) - 1), min_size=3, max_size=3, unique=True).map(sorted))
@settings(max_examples=30, deadline=None)
def test_segments_add_up_but_for_what_a_cut_costs(places: list[int]):
    first, middle, last = (CUTS[i] for i in places)
    parts_s = TABLE.segment_s(GRAPH, first, middle) + TABLE.segment_s(GRAPH, middle, last)
    cut_s = TABLE.leave_s[middle[0]] + TABLE.enter_s[middle[0]]
    assert parts_s - TABLE.segment_s(GRAPH, first, last) == pytest.approx(cut_s)


@given(st.integers(0, len(CUTS) - 2), st.integers(0, len(CUTS) - 2))
@settings(max_examples=30, deadline=None)
def test_a_longer_segment_computes_longer(a: int, b: int):
    table = TABLE.model_copy(update={"enter_s": dict.fromkeys(GRAPH.tensors, 0.0), "leave_s": TABLE.enter_s})
    short, long = sorted((a, b))
    tails_s = table.tail_s(GRAPH, [CUTS[short], CUTS[long]])
    assert tails_s[0] >= tails_s[1]


def test_every_tensor_of_a_wide_cut_is_paid_for_once():
    first, second = "inception3a.a.relu", "inception3a.b1.relu"
    both_s = TABLE.segment_s(GRAPH, GRAPH.inputs, (first, second))
    alone_s = [TABLE.segment_s(GRAPH, GRAPH.inputs, (name,)) for name in (first, second)]
    common_s = TABLE.segment_s(GRAPH, GRAPH.inputs, ("pool2",)) - TABLE.leave_s["pool2"]
    assert both_s == pytest.approx(sum(alone_s) - common_s)


def test_an_input_that_is_not_needed_costs_nothing():
    alone_s = TABLE.segment_s(GRAPH, ("pool4",), GRAPH.outputs)
    assert TABLE.segment_s(GRAPH, ("pool4", "pool2"), GRAPH.outputs) == pytest.approx(alone_s)


def test_an_impossible_segment_is_refused():
    with pytest.raises(GraphError, match="graph input 'input' is needed too"):
        TABLE.segment_s(GRAPH, ("pool4",), ("pool2",))


def test_the_table_of_another_network_is_refused():
    TABLE.check(GRAPH)
    other = networks.build("googlenet", seed=1)
    with pytest.raises(ProfileError, match="profile 'googlenet' anew") as refusal:
        TABLE.check(other)
    assert other.fingerprint[:12] in str(refusal.value)


def test_a_file_gives_the_same_table_back(tmp_path):
    TABLE.save(tmp_path / "table.json")
    assert ProfileTable.load(tmp_path / "table.json") == TABLE


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"op_s": [-1.0]}, r"op_s\.0: .*greater than or equal to 0"),
        ({"whole_s": 0}, "whole_s: .*greater than 0"),
        ({"whole_s": 1.0}, "add up to 0.2 s, but whole_s is 1 s"),
        ({"call_s": "soon"}, "call_s: .*valid number"),
        ({"call_s": None}, "call_s: .*valid number"),
        ({"speed": 3}, "speed: .*not permitted"),
        ({"format": 3}, "format: .*should be 2"),
        ({"format": 1}, "a profile of an older coinfer; write it anew with `coinfer profile`"),
        ({"payload_bits": {"pool1": {"7": 3.0}}}, "no encoding with 7 bits per element; there are 32, 16, 12, 8, 4"),
        ({"payload_bits": {"pool1": {"8": 0}}}, r"payload_bits\.pool1\.8: .*greater than 0"),
        ({"enter_s": {"pool1": 1e999}}, "enter_s.pool1: .*finite"),
    ],
)
def test_a_malformed_file_is_named_with_its_field(tmp_path, change, complaint):
    path = tmp_path / "table.json"
    path.write_text(json.dumps(json.loads(TABLE.model_dump_json()) | change))
    with pytest.raises(ProfileError, match=complaint) as refusal:
        ProfileTable.load(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"model": "x"}'])
def test_what_is_no_table_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "table.json"
    path.write_bytes(content)
    with pytest.raises(ProfileError, match="no valid profile") as refusal:
        ProfileTable.load(path)
    assert "\n" not in str(refusal.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ProfileError, match="No such file"):
        ProfileTable.load(tmp_path / "none.json")
    with pytest.raises(ProfileError, match="cannot read this profile"):
        ProfileTable.load(tmp_path)


def test_a_groups_time_goes_where_its_arithmetic_is():
    graph = from_proto(perceptron(), "perceptron")
    assert graph.groups == ((0, 1), (2,))
    op_s = split_by_work(graph, [3.0, 5.0])
    work = [op.work_flop for op in graph.ops]
    assert op_s == pytest.approx([3 * work[0] / (work[0] + work[1]), 3 * work[1] / (work[0] + work[1]), 5.0])


def test_another_machines_operations_give_another_machines_table():
    slower = TABLE.with_op_s([4 * seconds for seconds in TABLE.op_s])
    assert slower.head_s(GRAPH, CUTS) == pytest.approx(4 * TABLE.head_s(GRAPH, CUTS))
    assert slower.whole_s == pytest.approx(4 * TABLE.whole_s)
    assert slower.payload_bits == TABLE.payload_bits
    assert slower.encode_s_per_byte[8] == pytest.approx(4 * TABLE.encode_s_per_byte[8])
    ProfileTable.model_validate(slower.model_dump())

import json

import numpy as np
import pytest
from tests.graph.small_graphs import perceptron

from coinfer.graph.layout import HELD
from coinfer.graph.onnx.load import from_proto
from coinfer.graph.zoo import networks
from coinfer.profile.table import ProfileError
from coinfer.profile.trace import open_traced, read_trace

GRAPH = networks.build("alexnet-cifar")


class Recorded:
    """A session whose profile is already written."""

    def __init__(self, path, runs):
        self.path = path
        events = [{"cat": "Session", "name": "model_run", "ts": 0, "dur": 10_000}]
        for i, run in enumerate(runs):
            for j, (name, kind, us) in enumerate(run):
                where = {"cat": "Node", "name": f"{name}_kernel_time", "ts": 100 * i + j, "dur": us}
                events.append(where | {"args": {"op_name": kind}})
        path.write_text(json.dumps(events))

    def end_profiling(self):
        return str(self.path)


def traced(tmp_path, *runs, warm_up=0):
    return read_trace(GRAPH, Recorded(tmp_path / "trace.json", runs), warm_up)  # pyright: ignore[reportArgumentType]


def group_of(tensor):
    return next(k for k, group in enumerate(GRAPH.groups) if any(tensor in GRAPH.ops[i].outputs for i in group))


def test_events_go_to_the_group_that_makes_the_tensor(tmp_path):
    trace = traced(
        tmp_path,
        [
            ("conv1.relu_nchwc", "Conv", 40),
            ("pool1_nchwc", "MaxPool", 7),
            ("fused fc1", "FusedGemm", 300),
            ("logits", "Gemm", 5),
        ],
    )
    expected = {"conv1.relu": 40e-6, "pool1": 7e-6, "fc1": 300e-6, "logits": 5e-6}
    assert {name: trace.group_s[group_of(name)] for name in expected} == pytest.approx(expected)
    assert trace.group_s.sum() == pytest.approx(352e-6)
    assert list(np.flatnonzero(trace.blocked)) == [group_of("conv1"), group_of("pool1")]


def test_what_the_executor_added_goes_with_its_neighbour(tmp_path):
    trace = traced(
        tmp_path,
        [
            ("ReorderInput", "ReorderInput", 3),
            ("conv2.relu_nchwc", "Conv", 40),
            ("ReorderOutput_token_5", "ReorderOutput", 2),
            ("something_else", "Cast", 11),
        ],
    )
    group = group_of("conv2")
    assert trace.enter_s[group] == pytest.approx(3e-6)
    assert trace.leave_s[group] == pytest.approx(2e-6)
    assert trace.group_s[group] == pytest.approx(51e-6)


def test_the_pooling_that_holds_the_layout_counts_as_entering(tmp_path):
    trace = traced(tmp_path, [(f"pool1{HELD}_nchwc", "MaxPool", 9), ("conv2_nchwc", "Conv", 40)])
    assert trace.enter_s.sum() == pytest.approx(9e-6)
    assert trace.group_s.sum() == pytest.approx(40e-6)


def test_the_faster_half_of_the_runs_counts_and_warm_up_does_not(tmp_path):
    runs = [[("conv1", "Conv", us)] for us in (1, 1, 20, 10, 900, 12)]
    assert traced(tmp_path, *runs, warm_up=2).group_s.sum() == pytest.approx(11e-6)


def test_the_profiles_file_is_removed(tmp_path):
    traced(tmp_path, [("conv1", "Conv", 1)])
    assert list(tmp_path.iterdir()) == []


def test_an_empty_profile_gives_no_times(tmp_path):
    trace = traced(tmp_path)
    assert trace.group_s.shape == (len(GRAPH.groups),)
    assert not trace.group_s.any()


@pytest.mark.parametrize(("first", "last"), [("input", "logits"), ("pool1", "conv5.relu"), ("pool3.flat", "logits")])
def test_a_real_profile_has_a_time_for_every_group_that_ran_and_no_other(tmp_path, first, last):
    session = open_traced(GRAPH, (first,), (last,), tmp_path)
    feeds = {first: np.zeros(GRAPH.tensors[first].shape, np.float32)}
    for _ in range(4):
        session.run(None, feeds)
    trace = read_trace(GRAPH, session)
    ran = set(GRAPH.needed((first,), (last,)))
    assert [seconds > 0 for seconds in trace.group_s] == [bool(ran & set(group)) for group in GRAPH.groups]


def test_operations_without_names_are_found_by_their_tensors(tmp_path):
    proto = perceptron()
    for node in proto.graph.node:
        node.name = ""
    graph = from_proto(proto, "nameless")
    session = open_traced(graph, graph.inputs, graph.outputs, tmp_path)
    session.run(None, {"x": np.ones((1, 4), np.float32)})
    trace = read_trace(graph, session, warm_up=0)
    assert (trace.group_s > 0).all()


@pytest.mark.parametrize("left", ["", '[{"cat": "Node", "na'])
def test_a_trace_cut_off_by_a_full_disk_is_said_in_one_line(tmp_path, left):
    session = Recorded(tmp_path / "trace.json", [])
    session.path.write_text(left)
    with pytest.raises(ProfileError, match=f"^{tmp_path}: .* not whole; is the disk full\\? .*TMPDIR$"):
        read_trace(GRAPH, session)  # pyright: ignore[reportArgumentType]

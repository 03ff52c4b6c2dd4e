"""A policy file that places blocks decides where each block of a request runs, and nothing is lost if it cannot."""

import math
import threading
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from tests.runtime.device.test_device import GRAPH, PICTURES, TABLE, exact
from tests.runtime.device.test_several_hops import FAR, NEAR, RATES_BPS, Site, device, set_rate

from coinfer.options.blocks import even_cuts
from coinfer.policies.onnx import PolicyError, write_sidecar
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.planning.place_blocks import observe_blocks
from coinfer.runtime.protocol.messages import WireError
from coinfer.types import BlocksDecision, BlocksObservation, fields_of

TASKS, BLOCKS = 3, 4


def policy_file(folder: Path, place: list[int], blocks: int = BLOCKS, servers: int = 2) -> Path:
    """Places the blocks of every task as given while its deadline is above 1 s, else all on the device."""
    lengths = {"K": TASKS, "M": blocks, "N": servers}
    nodes = [
        helper.make_node("Unsqueeze", ["deadline_s", "last"], ["limit"]),
        helper.make_node("Greater", ["limit", "one"], ["long"]),
        helper.make_node("Cast", ["long"], ["times"], to=TensorProto.INT64),
        helper.make_node("Mul", ["times", "wanted"], ["place"]),
    ]
    values = {"last": ([1], [-1]), "wanted": ([blocks], place)}
    axes = fields_of(BlocksObservation)["deadline_s"].axes
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("deadline_s", TensorProto.FLOAT, [lengths.get(axis) for axis in axes])],
        [helper.make_tensor_value_info("place", TensorProto.INT64, None)],
        [
            *(helper.make_tensor(name, TensorProto.INT64, *value) for name, value in values.items()),
            helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
        ],
    )
    path = folder / "blocks.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    own = {"sizes": lengths, "options": None, "fields": ["deadline_s"]}
    write_sidecar(path, "blocks", own, scheme="mtl-a3c", scenario="test", scenario_fingerprint="")
    return path


def placed(site: Site, folder: Path, place: list[int], **settings) -> Device:
    ours = device(site, policy=policy_file(folder, place), **settings)
    assert ours._routes is not None
    ours._routes.update()  # with the links of the test
    return ours


def cuts() -> list[tuple[str, ...]]:
    useful = GRAPH.useful_cuts()
    flop = np.concatenate([[0.0], np.cumsum([op.work_flop for op in GRAPH.ops])])[[len(cut.head) for cut in useful]]
    return [useful[i].tensors for i in even_cuts(flop, BLOCKS)]


@pytest.mark.parametrize(
    ("place", "nodes", "ends"),
    [
        ([0, 1, 2, 2], ["device", NEAR, FAR], [1, 2, 4]),
        ([2, 2, 1, 2], ["device", FAR, NEAR, FAR], [0, 2, 3, 4]),
        ([0, 0, 1, 1], ["device", NEAR], [2, 4]),
        ([0, 0, 0, 0], ["device"], [4]),
    ],
)
def test_each_block_runs_in_its_place(place: list[int], nodes: list[str], ends: list[int], tmp_path: Path):
    with placed(Site(), tmp_path, place) as ours:
        result = ours.infer(PICTURES[0])
        assert [hop.node for hop in result.route.hops] == nodes
        assert [hop.cut for hop in result.route.hops] == [cuts()[end] for end in ends]
        assert (result.executed_on, result.fallback) == (nodes[-1], "")
        assert math.isfinite(result.predicted_s)
        assert [hop.node for hop in ours.plan(deadline_s=0.5).hops] == ["device"], "it reads the request's deadline"
    np.testing.assert_allclose(result.output, exact(PICTURES[0]), rtol=1e-4, atol=1e-6)


def test_the_planner_decides_where_a_placement_cannot_be_carried_out(tmp_path: Path):
    site = Site()
    site.link_bps = 1e3  # no planner would go over it
    for place in ([1, 0, 0, 0], [1, 2, 0, 2]):
        with placed(site, tmp_path, place) as ours:
            assert [hop.node for hop in ours.plan().hops] == ["device", NEAR], "blocks do not come back to the device"
    site.link_bps = None
    with placed(site, tmp_path, [1, 1, 2, 2]) as ours:
        assert [hop.node for hop in ours.plan().hops] == ["device", NEAR], "servers that do not forward"


def test_the_others_finish_if_a_hop_of_the_policy_fails(tmp_path: Path):
    site = Site()
    with placed(site, tmp_path, [0, 1, 2, 2]) as ours:
        site.fails[FAR] = WireError("UNAVAILABLE", "it burns")
        result = ours.infer(PICTURES[0])
    assert "it burns" in result.fallback
    assert site.asked[:2] == [(NEAR, 1), (FAR, 0)]
    np.testing.assert_allclose(result.output, exact(PICTURES[0]), rtol=1e-4, atol=1e-6)


def test_the_planner_decides_if_the_policy_fails_or_is_late(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with placed(Site(), tmp_path, [0, 0, 1, 1]) as ours:
        decider, go_on, asked = ours._routes, threading.Event(), []

        def hangs(observation):
            asked.append(observation)
            go_on.wait()
            return BlocksDecision(np.zeros((TASKS, BLOCKS), dtype=np.int64))

        def breaks(observation):
            raise RuntimeError("out of its mind")

        def strays(observation):
            return BlocksDecision(np.full((TASKS, BLOCKS), 9))

        planned = ["device", NEAR, FAR]
        assert [hop.node for hop in ours.plan().hops] == planned[:2]
        for policy, problem in ((breaks, "out of its mind"), (strays, "expected 4 of 0 to 2"), (hangs, "is late")):
            decider._blocks = decider._blocks._replace(policy=policy)
            for _ in range(3):
                assert len(ours.plan().hops) in (2, 3)
                assert math.isfinite(ours.infer(PICTURES[0]).predicted_s)
            assert caplog.text.count(problem) == 1, "said once"
        assert len(asked) == 1, "one that hangs is not asked again"
        go_on.set()


def test_a_policy_sees_what_the_device_believes(tmp_path: Path):
    with placed(Site(), tmp_path, [0, 1, 2, 2]) as ours:
        for index, name in enumerate(ours.servers):
            set_rate(ours, index, RATES_BPS[name])
        planner, state, blocks = ours.planner, ours._parts.state(), ours.planner.blocks
        assert blocks is not None
        plan = planner.plan(state, 6.0)
        seen = observe_blocks(planner, blocks, plan, state, ours._parts.client.pairs.known())
    for name, field in fields_of(BlocksObservation).items():
        lengths = [{"K": TASKS, "M": BLOCKS, "N": 2, "1": 1}[axis] for axis in field.axes if axis != "B"]
        assert list(np.shape(getattr(seen, name))) == lengths, name
    assert seen.task_mask.tolist() == [True, False, False]
    assert seen.block_mask.sum() == BLOCKS
    whole_s = TABLE.segment_s(GRAPH, GRAPH.inputs, GRAPH.outputs)
    assert seen.block_device_s[0].sum() == pytest.approx(whole_s * state.scale)
    assert (seen.block_device_s[0] / seen.block_server_s[0].T)[:, 0] == pytest.approx([2.0, 100.0], rel=0.01)
    assert seen.block_deadline_s[0].sum() == pytest.approx(6.0)
    assert seen.uplink_bps[0].tolist() == pytest.approx(list(RATES_BPS.values()))
    assert seen.backhaul_bps == pytest.approx(1e8)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"servers": 3}, "made for 3 servers, 2 at hand"), ({"blocks": 99}, "alexnet-cifar has .* blocks at most")],
)
def test_a_policy_for_other_blocks_or_servers_is_refused(sizes: dict[str, int], message: str, tmp_path: Path):
    path = policy_file(tmp_path, [0] * sizes.get("blocks", BLOCKS), **sizes)
    with pytest.raises(PolicyError, match=message):
        device(Site(), policy=path)

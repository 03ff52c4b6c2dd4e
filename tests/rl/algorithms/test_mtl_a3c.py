"""Schemes that place every block: they learn, resume exactly, export, and say what they cannot do."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.policies.heuristics.test_blocks import latency_s, random_blocks

from coinfer.envs import blocks
from coinfer.errors import TrainingError
from coinfer.evaluate.policy_files import open_policy, tensor_blocks_policy
from coinfer.evaluate.simulate import run_policy
from coinfer.policies.heuristics.blocks_schedule import cut_times, schedule_cuts
from coinfer.policies.learned.actor_critic import ActorCriticNet
from coinfer.policies.learned.blocks.features import BlocksHeads, paper_state, queue_state, width
from coinfer.policies.learned.blocks.place_scores import PlaceScores, predicted_state
from coinfer.policies.learned.blocks.policy import BlocksNetPolicy
from coinfer.policies.learned.features import TIME_S, logarithmic
from coinfer.policies.onnx import PolicyError, load_policy
from coinfer.rl import registry
from coinfer.rl.algorithms import a3c, distributed_dqn, mtl_a3c, ppo
from coinfer.rl.core.blocks_training import BlocksJob, network_of
from coinfer.rl.core.envs.blocks import UNIT_S, BlocksEnv
from coinfer.rl.core.training import TrainingResult, TrainSettings
from coinfer.rl.export import export_best
from coinfer.scenario.compile import open_world
from coinfer.scenario.load import parse_changes
from coinfer.types import BlocksObservation

SMALL = ("tasks_per_slot=4", "arrivals.tasks=4", "devices.0.count=4", "slots=12", "blocks=2")
SCHEMES = ("mtl-a3c", "a3c", "ppo", "distributed-dqn")
PRESETS: dict[str, Any] = {
    "mtl-a3c": mtl_a3c.PRESETS["quick"],
    "a3c": a3c.PRESETS["quick"],
    "ppo": ppo.BLOCKS_PRESETS["quick"],
    "distributed-dqn": distributed_dqn.PRESETS["quick"],
}
FASTER = {"a3c": {"learning_rate": 2e-3, "horizon": 5}, "distributed-dqn": {"learning_rate": 2e-3}}
"""Settings for trainings of a few hundred slots."""


def train(name: str, steps: int, changes: tuple[str, ...] = SMALL, **more: Any) -> TrainingResult:
    learner = replace(PRESETS[name].learner, **FASTER.get(name, {}))
    chosen = replace(PRESETS[name], learner=learner, trunk=(16,), assess_rounds=2)
    settings = TrainSettings("mtl-a3c", changes, seeds=2, seed=1, steps=steps)
    return registry.trainer(name)(settings, blocks_settings=chosen, **more)


def open_small(changes: tuple[str, ...] = SMALL) -> Any:
    return open_world("mtl-a3c", parse_changes(changes))


def observation(changes: tuple[str, ...] = SMALL, worlds: int = 5) -> BlocksObservation:
    tables = blocks.load(open_small(changes).world)
    return blocks.observe(tables, blocks.reset(tables, torch.arange(worlds)))


@pytest.mark.parametrize("name", SCHEMES)
def test_learns_to_leave_slow_devices(name):
    """Four tasks and four fast servers: what is computed on the device takes ten times as long."""
    changes = (*SMALL, "devices.0.flop_per_s=1e8", "links.low_bps=1e9", "links.high_bps=1e9")
    world = open_small(changes).world
    trained = train(name, 640, changes)
    random_s = run_policy(world, "rpdi", 2, 1).measures["mean_s"].mean()
    for policy in trained.policies:
        learned_s = run_policy(world, name, 2, 1, lambda seed, policy=policy: policy).measures["mean_s"].mean()
        assert learned_s < 0.4 * random_s


def test_drawn_decisions_share_tasks_out_and_leave_a_lone_one_its_best_place():
    """A network of zeros: all five places are equally good."""
    heads, tasks = BlocksHeads(2, 4), 20
    seen = observation((f"tasks_per_slot={tasks}", f"arrivals.tasks={tasks}", "slots=12", "blocks=2"))
    net = ActorCriticNet(width(paper_state, 2, 4), 2, 5, tasks, True, (4,))
    policy = BlocksNetPolicy(net, torch.zeros(net.size), paper_state, heads, sampled=True)
    place = policy(seen).place
    assert (place == place[..., :1]).all(), "the blocks of a task stay together"
    assert (torch.nn.functional.one_hot(place[..., 0], 5).sum(-2) - tasks / 5).abs().max() <= 2
    assert len(place[:, 0, 0].unique()) > 1, "slots begin anywhere"
    alone = seen._replace(task_mask=torch.arange(tasks).expand(5, -1) == 3)
    assert (policy(alone).place[:, 3] == 0).all()


@pytest.mark.parametrize("name", SCHEMES)
def test_resumed_it_ends_as_if_not_stopped(name, tmp_path: Path):
    class Stopped(Exception):
        pass

    def stop(report: Any) -> None:
        if report.round >= 20:
            raise Stopped

    whole = train(name, 320)
    with pytest.raises(Stopped):
        train(name, 320, folder=tmp_path, progress=stop)
    rest = train(name, 320, folder=tmp_path, resume=True)
    assert rest.digest == whole.digest
    assert rest.points == whole.points


def test_one_asynchronous_worker_learns_as_in_deterministic_mode():
    """Two are in no fixed order."""
    settings, trained = TrainSettings("mtl-a3c", SMALL, seeds=2, steps=80), []
    for threads in (0, 1):
        learner = replace(PRESETS["mtl-a3c"].learner, workers=1, threads=threads)
        trained.append(mtl_a3c.train(settings, blocks_settings=replace(PRESETS["mtl-a3c"], learner=learner)))
    assert trained[0].digest == trained[1].digest
    assert trained[0].points == trained[1].points


@pytest.mark.parametrize(("state", "sampled"), [("queues", False), ("paper", True), ("predicted", False)])
def test_onnx_decides_as_torch_does(state, sampled, tmp_path: Path):
    chosen = replace(PRESETS["mtl-a3c"], sampled=sampled, state=state, trunk=(16,))
    settings = TrainSettings("mtl-a3c", SMALL, steps=160)
    trained, compiled = mtl_a3c.train(settings, blocks_settings=chosen), open_small()
    path = tmp_path / "policy.onnx"
    export_best(trained, compiled, path)
    exported = load_policy(path, kind="blocks")
    seen = observation(worlds=500)
    place = tensor_blocks_policy(exported)(seen).place
    assert place.equal(trained.policies[0](seen).place)
    if sampled:
        assert len(np.unique(place.numpy())) > 2
    single = BlocksObservation(*(np.asarray(field[3]) for field in seen))
    np.testing.assert_array_equal(exported(single).place, place[3])
    maker, notes = open_policy(path, compiled)
    assert (run_policy(compiled.world, "file", 1, 1, maker).measures["mean_s"] > 0).all()
    assert notes == ()
    with pytest.raises(PolicyError, match="made for 2 blocks, 3 at hand"):
        open_policy(path, open_small((*SMALL, "blocks=3")))
    with pytest.raises(PolicyError, match="expected format 1 and kind 'offload'"):
        load_policy(path)


def test_trainings_charge_exact_waits_if_their_settings_say_so():
    """60 tasks in places of chance: servers pause, so that the others wait less than for all work before."""
    world, chosen, rewards = open_small(("slots=2",)).world, mtl_a3c.PRESETS["predicted"], {}
    features, _, heads = network_of(world, chosen)
    for marginal in (False, True):
        env = BlocksJob(replace(chosen, marginal=marginal), world, 1.0, [0]).env(features, heads)
        state, seen = env.reset(torch.tensor([0]))
        choice = torch.arange(seen.mask[..., 0].numel()).reshape(seen.mask.shape[:-1]) % seen.mask.shape[-1]
        rewards[marginal] = env.step(state, choice).reward
    assert (rewards[True] >= rewards[False] - 1e-6).all()
    assert (rewards[True] > rewards[False] + 0.1).any()


def test_a_joint_head_has_a_limit_that_is_told():
    with pytest.raises(
        TrainingError, match="7 blocks on 4 servers have 78,125 placements; one joint head takes 20,000"
    ):
        a3c.train(TrainSettings("mtl-a3c", ("blocks=7",), steps=10))
    with pytest.raises(TrainingError, match="this scheme learns in environment blocks only"):
        mtl_a3c.train(TrainSettings("campus", steps=10))
    with pytest.raises(TrainingError, match="ppo knows options by number, for one network on one class of devices"):
        ppo.train(TrainSettings("campus", steps=10))


def test_ppo_learns_in_offload():
    trained = ppo.train(TrainSettings("sacd", steps=16 * 320))
    first, last = trained.assessed[0].figures["reward"][0], trained.assessed[-1].figures["reward"][0]
    assert last > first


def test_joint_and_single_heads_mean_the_same_places():
    seen = observation()
    single, joint = BlocksHeads(2, 4), BlocksHeads(2, 4, joint=True)
    assert (single.heads, single.choices, joint.heads, joint.choices) == (2, 5, 1, 25)
    every = torch.arange(25)[None, :]
    assert len(np.unique(joint.places(every).numpy().reshape(-1, 2), axis=0)) == 25
    out = seen._replace(server_room=torch.tensor([0.0, 1, 1, 1]).expand(5, -1))
    mask = single.mask(out).unflatten(1, (4, 2))
    assert mask[0, 0, 0].tolist() == [True, False, True, True, True]
    allowed = joint.mask(out)[0, 0]
    assert torch.equal(allowed, (joint.places(every)[0] != 1).all(-1))


def test_features_are_finite_and_as_many_as_said():
    seen = observation()
    for features in (paper_state, queue_state):
        found = features(seen._replace(energy_left_j=torch.full((5, 4), torch.inf)))
        assert found.shape == (5, 4, width(features, 2, 4))
        assert found.isfinite().all()
        assert found.abs().max() <= 3
    assert not paper_state(seen)[:, 0].equal(queue_state(seen)[:, 0, : width(paper_state, 2, 4)] * 0)


def test_rewards_of_tasks_heads_and_slots_add_up():
    world, heads = open_small().world, BlocksHeads(2, 4)
    seeds = torch.arange(2)
    sums = []
    for others, by_head in ((0.0, False), (1.0, False), (0.3, True)):
        env = BlocksEnv(world, 3, queue_state, heads, others=others, by_head=by_head)
        state, _ = env.reset(seeds)
        result = env.step(state, torch.ones(2, 3, 8, dtype=torch.int64) * torch.arange(8) % 5)
        sums.append(result.reward.sum(-1))
        assert result.reward.shape == (2, 3, 8 if by_head else 4)
    assert (sums[0] < -1e-3 / UNIT_S).all()
    torch.testing.assert_close(sums[0], sums[1])
    torch.testing.assert_close(sums[0], sums[2])


def test_place_scores_know_the_latency_of_every_placement_behind_the_queues():
    seen = random_blocks(3, 2, 3, 3, 2)
    seen = seen._replace(server_room=torch.full_like(seen.server_room, torch.inf), task_mask=seen.task_mask | True)
    found = predicted_state(seen)
    heads, schedule = BlocksHeads(3, 2, joint=True, one_cut=True), schedule_cuts(seen, cut_times(seen))
    ways = heads.places(torch.arange(heads.choices)).tolist()
    assert ways == [[0, 0, 0], [1, 1, 1], [2, 2, 2], [0, 1, 1], [0, 2, 2], [0, 0, 1], [0, 0, 2]]
    for world, task in product(range(2), range(3)):
        length = int(seen.block_mask[world, task].sum())
        queued = seen._replace(server_backlog_s=schedule.free_s[:, task])
        for number, way in enumerate(ways):
            if number == 0 or (number - 1) // 2 < length:
                alone_s = latency_s(queued, world, task, tuple(way[:length]))
                expected = logarithmic(torch.tensor(alone_s), TIME_S)
                assert float(found[world, task, number, 1]) == pytest.approx(float(expected), abs=1e-5)


def test_one_set_of_place_scores_fits_worlds_of_any_size():
    net = PlaceScores((8,))
    flat = net.initial(torch.tensor([5]))
    for blocks_count, servers in ((2, 2), (5, 4)):
        heads = BlocksHeads(blocks_count, servers, joint=True, one_cut=True)
        policy = BlocksNetPolicy(net, flat[0], predicted_state, heads)
        place = policy(random_blocks(1, 2, 4, blocks_count, servers)).place
        assert place.shape == (2, 4, blocks_count)
        assert place.max() <= servers


def test_an_untrained_place_scorer_follows_a_schedule_that_no_list_of_whole_tasks_reaches():
    world = open_world("mtl-a3c", {"slots": 3}).world
    net = PlaceScores()
    heads = BlocksHeads(6, 4, joint=True, one_cut=True)
    policy = BlocksNetPolicy(net, net.initial(torch.tensor([3]))[0], predicted_state, heads)
    own_s = run_policy(world, "own", 1, 1, lambda seed: policy).measures["mean_s"]
    assert own_s < 0.95 * run_policy(world, "list-schedule", 1, 1).measures["mean_s"]
    assert own_s < 0.95 * run_policy(world, "sequential-greedy", 1, 1).measures["mean_s"]

"""CDO-DSAC, DDPG and Online RL on an edge small enough to see through."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from coinfer.evaluate.simulate import run_policy
from coinfer.physics import random
from coinfer.policies.learned.placement.load_table import TablePolicy
from coinfer.policies.learned.placement.placements import PLACEMENT_FEATURES, fixed_cut, placement_features
from coinfer.policies.learned.placement.policy import PlacementNet, PlacementPolicy, policies_of
from coinfer.rl.algorithms import cdo_dsac, ddpg, online_rl
from coinfer.rl.core import loop
from coinfer.rl.core.envs.placements import UNIT_S, PlacementEnv, trim_tasks
from coinfer.rl.core.records import Transition
from coinfer.scenario.compile import open_world

SEEDS = torch.arange(2)
SMALL = replace(
    cdo_dsac.CdoSettings(), agents=2, worlds=2, rounds=24, warmup=4, batch=8, memory=64, hidden=(16,),
    broadcast_every=10, judge_rounds=3, judge_worlds=2, assess_every=12,
)  # fmt: skip


@cache
def world(**changes):
    """About five tasks in a slot for two servers, one three times as fast as the other."""
    plain = {
        "tasks_per_slot": 12, "slots": 20, "arrivals.mean": 0.6, "arrivals.variance": 0.06, "links.placements": 4,
    }  # fmt: skip
    return open_world("cdo-dsac", {**plain, **changes}).world


def small_loop(settings=SMALL, seeds=SEEDS):
    return cdo_dsac.make_loop(settings, world(), seeds)


def test_a_liar_of_five_is_never_broadcast():
    """Four agents with one network, one with a broken copy of it that reports a return beyond all others."""
    settings = replace(SMALL, agents=5, judge_rounds=10)
    learner = small_loop(settings).learner
    with torch.no_grad():
        good = greedy_weights(settings)
        learner.sac.actor_flat.copy_(good)
        learner.sac.actor_flat[[3, 7]] = -good
    reported = torch.zeros(10)
    reported[[3, 7]] = 1e6
    learner.broadcast(reported)
    assert learner.broadcast_count.unflatten(0, (2, 5))[[0, 1], [3, 2]].tolist() == [0, 0]
    assert torch.equal(learner.sac.actor_flat, good.expand_as(learner.sac.actor_flat))


@pytest.mark.parametrize("harm", ["turned", "no number", "huge"])
def test_a_hostile_agent_of_five_is_never_broadcast_in_a_training(harm):
    """It breaks its network before every judgement and says that it is the best."""
    settings = replace(SMALL, agents=5, rounds=16, broadcast_every=0, assess_every=16)
    training, hostile = small_loop(settings), [2, 5]
    learner = training.learner
    with torch.no_grad():
        learner.sac.actor_flat.copy_(greedy_weights(settings))
    while training.round < settings.rounds:
        training.play()
        if learner.sac.updates and training.round % 4 == 0:
            with torch.no_grad():
                parts = {"turned": (learner.sac.actor_flat, -1.0), "huge": (learner.sac.actor_flat, -1e30)}
                flat, factor = parts.get(harm, (learner.sac.critic_flat, torch.nan))
                flat[hostile] *= factor
            reported = torch.full((10,), -1.0)
            reported[hostile] = 1e9
            learner.broadcast(reported)
    broadcast_count = learner.broadcast_count.unflatten(0, (2, 5))
    assert broadcast_count.sum(1).tolist() == [3, 3]
    assert broadcast_count[[0, 1], [2, 0]].tolist() == [0, 0]
    assert learner.sac.all_finite().all()


def greedy_weights(settings):
    """An actor whose score falls with the predicted latency (feature 0)."""
    flat = torch.zeros(1, cdo_dsac.make_net(settings, world()).size)
    layers = PlacementNet(PLACEMENT_FEATURES, settings.hidden).form.layers(flat)
    layers[0][0][0, 0, 0], layers[1][0][0, 0, 0] = 1.0, -50.0
    return flat


def test_networks_trained_with_bfloat16_are_exported_without():
    settings = replace(SMALL, form="flat", bfloat16=True)
    actor = small_loop(settings).learner.sac.actor
    assert actor.bfloat16
    make_features, make_placements = cdo_dsac.features_of(settings), cdo_dsac.placements_of(settings)
    (policy,) = policies_of(actor, torch.zeros(1, actor.size), make_features, make_placements)
    assert policy.net == replace(actor, bfloat16=False)


def test_agents_of_a_seed_share_one_memory():
    training = small_loop()
    for _ in range(6):
        training.play()
    assert training.replay.rings == 2
    assert training.replay.size == 6 * 2 * 2
    assert training.ring.tolist() == [0, 0, 1, 1]


def test_broadcast_makes_the_agents_of_a_seed_one():
    training = small_loop()
    for _ in range(24):
        training.play()
        if training.learner.sac.updates in (9, 10):
            flat = training.learner.sac.actor_flat.detach()
            same = [torch.equal(flat[0], flat[1]), torch.equal(flat[2], flat[3]), torch.equal(flat[0], flat[2])]
            assert same == [training.learner.sac.updates == 10] * 2 + [False]


MAKERS = (
    small_loop,
    lambda: ddpg.make_loop(DDPG, world(), SEEDS),
    lambda: ddpg.make_loop(TUNED, world(), SEEDS),
    lambda: small_loop(replace(SMALL, form="ranked")),
    lambda: online_rl.make_loop(TABLE, world(), SEEDS),
    lambda: online_rl.make_loop(replace(TABLE, running_queues=True), world(), SEEDS),
)


@pytest.mark.parametrize("make", MAKERS)
def test_goes_on_exactly_where_it_was_stopped(make):
    whole, first = make(), make()
    for _ in range(24):
        whole.play()
    for _ in range(13):
        first.play()
    state = {name: part.clone() for name, part in first.tensors().items()}
    second = make()
    second.restore(state)
    for _ in range(11):
        second.play()
    ours, theirs = second.tensors(), whole.tensors()
    assert ours.keys() == theirs.keys()
    for name, part in ours.items():
        assert torch.equal(part, theirs[name]), name


TABLE = replace(online_rl.OnlineRlSettings(), worlds=4, rounds=24, batch=8, memory=64, assess_every=12)
DDPG = replace(ddpg.DdpgSettings(), worlds=4, rounds=24, batch=8, memory=64, hidden=(16,), warmup=4, assess_every=12)

TUNED = replace(DDPG, form="ranked", softmax_temperature=0.3, updates=2, learning_rate_decay=(24, 48))


def test_a_reward_that_every_task_always_gets_is_centred_to_nothing():
    """By the task, whether slots have few of them or many."""
    learner = small_loop().learner
    for step in range(3):
        task_mask = torch.rand((4, 5, 12), generator=torch.Generator().manual_seed(step)) < 0.1 + 0.3 * step
        batch = Transition(*[None] * 9)._replace(task_mask=task_mask, reward=-3.0 * task_mask)
        centred = learner._centre(batch).reward
        torch.testing.assert_close(centred, torch.zeros_like(centred))


def test_trimming_changes_nothing_that_counts():
    env = PlacementEnv(world(), 2, lambda seen, placements: placement_features(seen, placements))
    state, observation = env.reset(torch.arange(3))
    result = env.step(state, observation.mask.int().argmax(-1))
    batch = Transition(
        *observation, observation.mask.int().argmax(-1), result.reward, torch.ones(3, 2), *result.final_observation
    )
    short = trim_tasks(batch)
    assert short.task_mask.shape[-1] == max(batch.task_mask.sum(-1).max(), batch.next_task_mask.sum(-1).max())
    assert short.task_mask.sum() == batch.task_mask.sum()
    torch.testing.assert_close(short.reward.sum((1, 2)), batch.reward.sum((1, 2)))


def test_the_environment_pays_what_the_simulator_counts():
    """The same policy in the same episodes, stepped here and in the evaluation: the same tasks and times."""
    net, features = PlacementNet(PLACEMENT_FEATURES, SMALL.hidden), cdo_dsac.features_of(SMALL)
    weights = greedy_weights(SMALL)
    env = PlacementEnv(world(), 4, features)
    state, observation = env.reset(random.key(torch.zeros(1, dtype=torch.int64), torch.arange(1)))
    paid, tasks, latency_s, in_time = (torch.zeros(()) for _ in range(4))
    for _ in range(world().edge.slots):
        result = env.step(
            state, torch.where(observation.mask, net(weights, observation.features), -torch.inf).argmax(-1)
        )
        state, observation = result.state, result.observation
        paid, tasks = paid + result.reward.sum(), tasks + result.metrics["tasks"].sum()
        latency_s, in_time = latency_s + result.metrics["latency_s"].sum(), in_time + result.metrics["in_time"].sum()
    assert result.truncated.all()
    policy = PlacementPolicy(net, weights, features, fixed_cut)
    run = run_policy(world(), "mine", 1, 4, maker=lambda seed: policy)
    assert tasks.item() == run.tasks
    assert (latency_s / tasks).item() == pytest.approx(run.measures["mean_s"][0], rel=1e-5)
    assert (in_time / tasks).item() == pytest.approx(run.measures["in_time"][0], rel=1e-6)
    assert (-UNIT_S * paid).item() == pytest.approx(latency_s.item(), rel=1e-5)


def test_agents_train_where_servers_load_networks():
    served = open_world("tight-memory", {"slots": 6}).world
    small = cdo_dsac.make_loop(replace(SMALL, rounds=8), served, torch.arange(1))
    before = small.learner.sac.actor_flat.detach().clone()
    loop.run(small)
    assert small.round == 8
    after = small.learner.sac.actor_flat.detach()
    assert after.isfinite().all()
    assert not torch.equal(after, before)


def test_least_predicted_latency_behind_running_queues_is_sequential_greedy():
    """What the inputs give without any training: a network that reads only that one of them."""
    policy = PlacementPolicy(
        PlacementNet(PLACEMENT_FEATURES, SMALL.hidden), greedy_weights(SMALL), cdo_dsac.features_of(SMALL), fixed_cut
    )
    mine, greedy = (
        run_policy(world(), name, 1, 4, maker=maker).measures
        for name, maker in (("mine", lambda seed: policy), ("sequential-greedy", None))
    )
    assert mine["mean_s"][0] == pytest.approx(greedy["mean_s"][0], rel=1e-3)
    assert mine["in_time"][0] == pytest.approx(greedy["in_time"][0], abs=1e-3)


def measured_s(policy, seeds):
    return torch.from_numpy(run_policy(world(), "mine", seeds, 8, maker=lambda seed: policy).measures["mean_s"])


def test_cdo_dsacs_agents_do_better_than_untrained():
    """Each of them, and not by the updater's choice alone: what they see makes good agents of some random ones."""
    settings = replace(
        SMALL, rounds=120, batch=32, memory=2000, worlds=4, assess_every=120, broadcast_every=0, hidden=(32,),
    )  # fmt: skip
    sac = replace(settings.sac, initial_temperature=0.05, target_entropy=(0.3, 0.02), target_entropy_updates=80)
    training = cdo_dsac.make_loop(replace(settings, sac=sac), world(), SEEDS)

    def agents():
        flat = training.learner.sac.actor_flat.detach()
        return PlacementPolicy(training.learner.sac.actor, flat, cdo_dsac.features_of(settings), fixed_cut)

    untrained_s = measured_s(agents(), 4)
    loop.run(training)
    assert (measured_s(agents(), 4) < 0.9 * untrained_s).all()


@pytest.mark.slow
def test_ddpg_does_better_than_untrained():
    """On average: not with every seed, and which these are depends on a processor's rounding."""
    settings = replace(
        DDPG, rounds=200, batch=32, memory=2000, worlds=8, form="places", actor_learning_rate=1e-3,
        critic_learning_rate=3e-3, tau=0.02, noise_updates=150, assess_every=200, softmax_temperature=0.3,
    )  # fmt: skip
    training = ddpg.make_loop(settings, world(), torch.arange(6))

    def actors():
        flat = training.learner.actor_flat.detach()
        return PlacementPolicy(training.learner.actor, flat, ddpg.features_of(settings), fixed_cut)

    untrained_s = measured_s(actors(), 6)
    loop.run(training)
    assert (measured_s(actors(), 6) / untrained_s).log().mean().exp() < 0.9


def test_a_table_does_better_than_an_empty_one():
    """An empty one sends each request to the least loaded server, or the first of them, whatever it takes task_mask."""
    training = online_rl.make_loop(replace(TABLE, worlds=8, rounds=100, epsilon_updates=70), world(), SEEDS)
    empty_s = measured_s(TablePolicy(training.learner.grid, training.learner.values), 2)
    loop.run(training)
    assert (measured_s(TablePolicy(training.learner.grid, training.learner.values), 2) < 0.8 * empty_s).all()

"""Runs of policies: measures against sums by hand, the same chance for all, and the same figures again."""

import numpy as np
import pytest
import torch
from tests.envs.worlds import random_blocks, random_world

from coinfer.envs import offload, rewards
from coinfer.errors import UserError
from coinfer.evaluate.serving_slots import demand_greedy, rule_weights
from coinfer.evaluate.simulate import MEASURES, episode_seeds, known_policies, run_policy
from coinfer.policies.heuristics import offload as heuristics
from coinfer.scenario.compile import open_world
from coinfer.types import BlocksDecision


@pytest.mark.parametrize(("number", "what", "warm_up"), [(6, "dropped", 0), (7, "refused", 0), (6, "dropped", 2)])
def test_measures_are_those_of_the_outcomes(number: int, what: str, warm_up: int):
    """Of a world that loses what no server takes, and of one in which the device answers instead, sometimes late."""
    world = random_world(np.random.default_rng(number))
    found = run_policy(world, "sequential-greedy", seeds=2, episodes=3, warm_up=warm_up).measures
    tables = offload.load(world)
    for seed in range(2):
        state = offload.reset(tables, episode_seeds(2, 3)[3 * seed : 3 * seed + 3])
        policy, latency_s, in_time, dropped, load = heuristics.sequential_greedy(0), [], [], [], 0
        accuracy, energy_j, refused, reward = [], [], [], []
        for slot in range(world.edge.slots):
            seen = offload.observe(tables, state)
            stepped = offload.step(tables, state, policy(seen), rewards.latency)
            state = stepped.state
            if slot < warm_up:
                continue
            latency_s += stepped.outcome.latency_s[seen.task_mask].tolist()
            in_time += stepped.outcome.in_time[seen.task_mask].tolist()
            dropped += stepped.info.dropped[seen.task_mask].tolist()
            accuracy += stepped.outcome.accuracy[seen.task_mask].tolist()
            energy_j += stepped.outcome.energy_j[seen.task_mask].tolist()
            refused += stepped.info.refused[seen.task_mask].tolist()
            reward += stepped.reward.tolist()
            load = load + stepped.info.server_work_s.double()
        assert found["mean_s"][seed] == pytest.approx(np.mean(latency_s))
        assert found["p95_s"][seed] == pytest.approx(np.percentile(latency_s, 95))
        assert found["p99_s"][seed] == pytest.approx(np.percentile(latency_s, 99))
        assert found["in_time"][seed] == pytest.approx(np.mean(in_time))
        assert found["dropped"][seed] == pytest.approx(np.mean(dropped))
        assert found["refused"][seed] == pytest.approx(np.mean(refused))
        assert found["energy_j"][seed] == pytest.approx(np.mean(energy_j))
        assert found["reward"][seed] == pytest.approx(np.mean(reward))
        assert found["accuracy"][seed] == pytest.approx(np.mean(accuracy))
        assert found[what][seed] > 0
        assert number == 6 or found["timely_accuracy"][seed] < found["accuracy"][seed]
        timely = [right for right, is_in_time in zip(accuracy, in_time, strict=True) if is_in_time]
        assert found["timely_accuracy"][seed] == pytest.approx(sum(timely) / len(in_time))
        even = load.sum(-1) ** 2 / (load.shape[-1] * (load**2).sum(-1))
        known = [float(value) for value in even if not torch.isnan(value)]
        expected = np.mean(known) if known else np.nan  # where nothing was sent there is no balance
        assert found["balance"][seed] == pytest.approx(expected, nan_ok=True)


def test_what_comes_of_a_task_later_counts_for_its_own_slot():
    """A load that is waited for ends slots later, also after the warm-up in which it was asked for."""
    world, warm_up = open_world("many-models", {"slots": 16}).world, 8
    tables = offload.load(world)
    state, decide = offload.reset(tables, episode_seeds(2, 1)), demand_greedy(rule_weights(world))(tables)
    latency_s, masks, is_late = [], [], False
    for slot in range(world.edge.slots):
        seen = offload.observe(tables, state)
        stepped = offload.step(tables, state, decide(state, seen), rewards.latency)
        latency_s.append(stepped.outcome.latency_s.clone())
        masks.append(seen.task_mask)
        revisions = stepped.info.revisions
        for b, place in revisions.mask.nonzero().tolist():
            of = int(revisions.slot[b, place])
            latency_s[of][b, revisions.number[b, place]] = revisions.latency_s[b, place]
            is_late |= of < warm_up <= slot
        state = stepped.state
    assert is_late
    found = run_policy(world, "demand-greedy", 2, 1, warm_up=warm_up)
    kept, mask = (torch.stack(parts[warm_up:], 1) for parts in (latency_s, masks))
    assert found.tasks == int(mask.sum())
    for seed in range(2):
        assert found.measures["mean_s"][seed] == pytest.approx(float(kept[seed][mask[seed]].double().mean()))


def test_a_warm_up_ends_before_the_episode():
    world = random_world(np.random.default_rng(5))
    with pytest.raises(UserError, match=r"^warm_up 99: expected a number of slots from 0 to"):
        run_policy(world, "random", 1, 1, warm_up=99)


@pytest.mark.parametrize("make", [random_world, random_blocks])
def test_all_policies_meet_the_same_tasks_and_give_the_same_figures_again(make):
    world = make(np.random.default_rng(1))
    tasks = set()
    for name in known_policies(world):
        first, again = (run_policy(world, name, 2, 2) for _ in range(2))
        tasks.add(first.tasks)
        assert set(first.measures) == set(MEASURES)
        for measure, values in first.measures.items():
            np.testing.assert_array_equal(values, again.measures[measure])
    assert len(tasks) == 1


def test_more_seeds_do_not_change_the_first_ones():
    world = random_world(np.random.default_rng(2))
    few, many = run_policy(world, "greedy", 2, 2).measures, run_policy(world, "greedy", 4, 2).measures
    for name, values in few.items():
        np.testing.assert_allclose(values, many[name][:2], rtol=1e-6)
    assert len(torch.unique(episode_seeds(50, 50))) == 2500
    assert torch.equal(episode_seeds(2, 3, first=4), episode_seeds(6, 3)[12:])


def test_a_policy_that_has_no_name_can_run_too():
    world = random_world(np.random.default_rng(3))
    named, own = run_policy(world, "best-cut", 2, 2), run_policy(world, "mine", 2, 2, maker=heuristics.best_cut)
    np.testing.assert_array_equal(named.measures["mean_s"], own.measures["mean_s"])
    assert own.policy == "mine"


def test_an_unknown_name_is_one_line_with_those_there_are():
    world = random_world(np.random.default_rng(3))
    with pytest.raises(UserError, match=r"^no policy 'greedi' for .*; there are .*greedy"):
        run_policy(world, "greedi", 1, 1)


def test_progress_is_told_to_the_end():
    told = []
    world = random_world(np.random.default_rng(5))
    run_policy(world, "random", 1, 1, progress=lambda *said: told.append(said))
    assert told == [(slot, world.edge.slots, "random") for slot in range(world.edge.slots + 1)]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda seen, d: d._replace(server=d.server[:, :-1]),
            r"decision.server has shape \[4, \d+\], expected \[B, K\] =",
        ),
        (lambda seen, d: d._replace(option=d.option.float()), "decision.option is of torch.float32, expected whole"),
        (lambda seen, d: d._replace(option=d.option.tolist()), r"decision.option is a list, expected a tensor \[4, "),
        (lambda seen, d: d.option, "decision.option is nothing, expected a tensor"),
        (lambda seen, d: seen.no_such_field, "failed on an observation: AttributeError: .*no_such_field"),
    ],
)
def test_a_policys_mistakes_are_one_line_that_names_field_and_shape(spoil, told: str):
    world = random_world(np.random.default_rng(3))
    good = heuristics.greedy(0)
    run_policy(world, "mine", 2, 2, lambda seed: good)
    with pytest.raises(UserError, match=told) as caught:
        run_policy(world, "mine", 2, 2, lambda seed: lambda seen: spoil(seen, good(seen)))
    assert str(caught.value).startswith("policy mine")
    assert "\n" not in str(caught.value)


def test_places_of_blocks_are_checked_too():
    world = random_blocks(np.random.default_rng(3))
    mistake = lambda seed: lambda seen: BlocksDecision(torch.zeros_like(seen.task_mask, dtype=torch.int64))  # noqa: E731
    with pytest.raises(UserError, match=r"decision.place has shape \[4, \d+\], expected \[B, K, M\] = \[4, "):
        run_policy(world, "mine", 2, 2, mistake)

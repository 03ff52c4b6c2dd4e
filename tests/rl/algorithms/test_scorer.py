"""Evolution strategies on the scorer: the same again, no worse than where they began, and better where that is easy."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from tests.envs.test_offload import random_world

from coinfer.evaluate import simulate
from coinfer.policies.learned import scorer
from coinfer.rl.algorithms import scorer as learner
from coinfer.rl.algorithms.scorer import Settings
from coinfer.rl.core.rollout import Player
from coinfer.scenario.world import OffloadWorld


class Known(NamedTuple):
    """A case whose world is at hand."""

    given: OffloadWorld
    worlds: int = 4

    def world(self) -> OffloadWorld:
        return self.given


def settings(world: OffloadWorld, **changes: object) -> Settings:
    plain = {"pairs": 6, "slots": world.edge.slots, "cases_at_once": 1, "generations": 2, "spread": 0.1}
    return Settings(cases=(Known(world),), **{**plain, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def world() -> OffloadWorld:
    return random_world(np.random.default_rng(5))


def test_a_player_counts_what_a_comparison_counts(world: OffloadWorld):
    weights = torch.stack([scorer.first_weights(), scorer.first_weights(3) + 0.3])
    seeds = simulate.episode_seeds(6, 1)
    player = Player(world, 2, 6, world.edge.slots)
    player.start(weights, seeds)
    latency_s, late = player.result()
    for number, flat in enumerate(weights):
        policy = scorer.scorer(scorer.unpack(flat[None]))
        found = simulate.run(world, "own", 1, 6, maker=lambda seed, policy=policy: policy)
        if torch.equal(seeds, simulate.episode_seeds(1, 6)):
            assert latency_s[number].item() == pytest.approx(found.measures["mean_s"][0], rel=1e-5)
            assert late[number].item() == pytest.approx(1 - found.measures["in_time"][0], abs=1e-6)


def test_training_is_the_same_again(world: OffloadWorld):
    first, again = (learner.train(settings(world)) for _ in range(2))
    assert torch.equal(first.weights, again.weights)
    assert not torch.equal(first.weights, scorer.first_weights())
    other = learner.train(settings(world, seed=1))
    assert not torch.equal(first.weights, other.weights)


def test_training_goes_on_from_where_it_was(world: OffloadWorld):
    whole = learner.train(settings(world, generations=4))
    half = learner.begin(settings(world, generations=4))
    bench = learner.Bench(settings(world, generations=4))
    for _ in range(2):
        half, _ = learner.step(bench.settings, lambda tasks: map(bench, tasks), half)
    assert torch.equal(learner.train(settings(world, generations=4), half).weights, whole.weights)


def test_all_cases_have_their_turn():
    cases = tuple(Known(None, 1) for _ in range(5))  # type: ignore[arg-type]
    plan = Settings(cases=cases, cases_at_once=2)
    turns = [number for generation in range(5) for number in learner._chosen(plan, generation)]
    assert sorted(turns) == sorted(2 * list(range(5)))


def test_it_learns_what_sequential_greedy_does_not_know():
    """All tasks' uploads share a link, which only a price on further senders can tell."""
    generator = np.random.default_rng(11)
    shared = random_world(generator)
    edge = shared.edge._replace(shared_bandwidth=True)
    shared = shared._replace(edge=edge)
    found = learner.train(settings(shared, generations=12, rate=0.1, spread=0.2))
    player = Player(shared, 2, 64, edge.slots)
    player.start(torch.stack([scorer.first_weights(), found.weights]), torch.arange(1000, 1064))
    latency_s, _ = player.result()
    assert latency_s[1] <= latency_s[0] * 1.005

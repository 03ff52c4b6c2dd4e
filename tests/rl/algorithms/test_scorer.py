"""Evolution strategies on the scorer: the same again, no worse than where they began, and better where that is easy."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from tests.envs.test_offload import random_world

from coinfer.evaluate import simulate
from coinfer.policies.learned.scorer import policy as scorer
from coinfer.policies.learned.scorer import weights as scorer_weights
from coinfer.rl.algorithms import scorer as learner
from coinfer.rl.algorithms.scorer import Settings
from coinfer.rl.core.rollout import Player
from coinfer.scenario.world import OffloadWorld


class CompiledCase(NamedTuple):
    """A case with a compiled world."""

    compiled: OffloadWorld
    worlds: int = 4

    def world(self) -> OffloadWorld:
        return self.compiled


def settings(world: OffloadWorld, **changes: object) -> Settings:
    plain = {"pairs": 6, "slots": world.edge.slots, "cases_at_once": 1, "generations": 2, "sigma": 0.1}
    return Settings(cases=(CompiledCase(world),), **{**plain, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def world() -> OffloadWorld:
    return random_world(np.random.default_rng(5))


def test_a_player_counts_what_a_comparison_counts(world: OffloadWorld):
    weights = torch.stack([scorer_weights.initial_weights(), scorer_weights.initial_weights(3) + 0.3])
    player = Player(world, 2, 6, world.edge.slots)
    player.start(weights, simulate.episode_seeds(1, 6))
    latency_s, late = player.result()
    for number, flat in enumerate(weights):
        policy = scorer.scorer(scorer_weights.unpack(flat[None]))
        run = simulate.run_policy(world, "own", 1, 6, maker=lambda seed, policy=policy: policy)
        assert latency_s[number].item() == pytest.approx(run.measures["mean_s"][0], rel=1e-5)
        assert late[number].item() == pytest.approx(1 - run.measures["in_time"][0], abs=1e-6)


def test_training_is_the_same_again(world: OffloadWorld):
    first, again = (learner.train(settings(world)) for _ in range(2))
    assert torch.equal(first.weights, again.weights)
    assert not torch.equal(first.weights, scorer_weights.initial_weights())
    other = learner.train(settings(world, seed=1))
    assert not torch.equal(first.weights, other.weights)


def test_training_goes_on_from_where_it_was(world: OffloadWorld):
    whole = learner.train(settings(world, generations=4))
    half = learner.begin(settings(world, generations=4))
    evaluator = learner.CaseEvaluator(settings(world, generations=4))
    for _ in range(2):
        half, _ = learner.step(evaluator.settings, lambda tasks: map(evaluator, tasks), half)
    assert torch.equal(learner.train(settings(world, generations=4), half).weights, whole.weights)


def test_all_cases_have_their_turn():
    cases = tuple(CompiledCase(None, 1) for _ in range(5))  # type: ignore[arg-type]
    plan = Settings(cases=cases, cases_at_once=2)
    turns = [number for generation in range(5) for number in learner._case_numbers(plan, generation)]
    assert sorted(turns) == sorted(2 * list(range(5)))


@pytest.fixture(scope="module")
def shared() -> OffloadWorld:
    """Three tasks a slot for four servers, whose uploads share the links: which only a price can express."""
    plain = random_world(np.random.default_rng(2))
    return plain._replace(edge=plain.edge._replace(shared_bandwidth=True))


def held_out_s(world: OffloadWorld, *weights: torch.Tensor) -> list[float]:
    """Mean latency in episodes that no training has seen."""
    player = Player(world, len(weights), 64, world.edge.slots)
    player.start(torch.stack(weights), torch.arange(1000, 1064))
    return player.result()[0].tolist()


def trained(world: OffloadWorld, seed: int, start: tuple[float, ...] = ()) -> torch.Tensor:
    plan = settings(world, generations=12, learning_rate=0.3, sigma=0.2, seed=seed, start=start)
    return learner.train(plan).weights


def test_it_learns_what_sequential_greedy_does_not_know(shared: OffloadWorld):
    """3 % on average, with some seeds more, with others less."""
    first_s, *trained_s = held_out_s(
        shared, scorer_weights.initial_weights(), *(trained(shared, seed) for seed in range(3))
    )
    assert sum(trained_s) / 3 < 0.99 * first_s


def test_it_unlearns_a_price_that_does_harm(shared: OffloadWorld):
    """A second of service that is thought to cost nothing, so that the slowest servers look best."""
    wrong = scorer_weights.initial_weights()
    price_of_service = sum(np.prod(shape) for shape in list(scorer_weights.SHAPES.values())[:6]) + 1
    wrong[int(price_of_service)] = -2.0
    first_s, wrong_s, *trained_s = held_out_s(
        shared,
        scorer_weights.initial_weights(),
        wrong,
        *(trained(shared, seed, tuple(wrong.tolist())) for seed in range(2)),
    )
    assert wrong_s > 1.25 * first_s
    assert max(trained_s) < 1.05 * first_s

"""Learners by imitation find the exact answers of small problems, adapt their candidates, and resume exactly."""

from dataclasses import replace

import pytest
import torch
from tests.rl.core.probes import MatchReward
from torch import Tensor

from coinfer.physics import random
from coinfer.policies.learned.imitation.quantisers import order_preserving, single_changes
from coinfer.policies.learned.nets import Mlp
from coinfer.rl.core.imitation import Head, Imitation, ImitationSettings, binary_loss, choice_loss
from coinfer.rl.core.loop import Loop, LoopSettings, run
from coinfer.rl.core.records import Label, Observation, Transition, label

SEEDS = random.key(torch.zeros(2, dtype=torch.int64), torch.arange(2))
LOOP = LoopSettings(rounds=60, warmup=0, batch=32, capacity=200, assess_rounds=4)


def by_choice(outputs: Tensor, mask: Tensor, count: int, keys: Tensor, call: int) -> Tensor:
    return single_changes(outputs, mask, count)


def by_order(outputs: Tensor, mask: Tensor, count: int, keys: Tensor, call: int) -> Tensor:
    return order_preserving(outputs[..., 0], count)


HEADS = {"binary": (Head(by_order, binary_loss), 1), "one of many": (Head(by_choice, choice_loss), 2)}


def match(observation: Observation, candidates: Tensor) -> Tensor:
    """The reward of `MatchReward`: 1 if the choice matches the sign, else -1."""
    sign = observation.features[..., :1]
    return (sign[..., None] * (2 * candidates - 1).to(sign.dtype)).sum(-1)


def made(kind: str = "binary", seeds: Tensor = SEEDS, **changes) -> Imitation:
    head, outputs = HEADS[kind]
    settings = replace(ImitationSettings(candidates=2, learning_rate=0.03), **changes)
    return Imitation(settings, Mlp(2, (16,), 1, outputs), lambda features: features, head, match, seeds)


def loop_of(learner: Imitation, **changes) -> Loop[Imitation]:
    return Loop(replace(LOOP, **changes), MatchReward(), learner, share=label)


@pytest.mark.parametrize("kind", HEADS)
def test_the_network_learns_what_its_candidates_found(kind):
    """After the training its first candidate, without any score, matches the sign; before it does not for both."""
    learner = made(kind)
    untrained = made(kind, candidates=1)
    run(loop_of(learner))
    alone = made(kind, candidates=1)
    alone.restore(learner.tensors())
    alone.count = torch.ones_like(alone.count)
    for sign in (-1.0, 1.0):
        features = torch.tensor([[[sign, 0.0]]]).expand(2, 1, 2)
        seen = Observation(features, torch.ones(2, 1, 1, 2, dtype=torch.bool), torch.ones(2, 1, 1, dtype=torch.bool))
        assert alone.act(seen, 0, explore=False).flatten().tolist() == [int(sign > 0)] * 2
        assert untrained.act(seen, 0).equal(untrained.act(seen, 0))
    first, last = loop_of(made(kind), rounds=1, log_every=1), loop_of(learner, rounds=1, log_every=1)
    run(first), run(last)
    assert max(last.points[-1].figures["loss"]) < 0.1 < min(first.points[-1].figures["loss"])


def test_the_best_candidate_is_decided_before_anything_is_learned():
    learner = made()
    run(loop := loop_of(learner, rounds=10, log_every=10, update_every=100))
    assert loop.points[-1].figures["reward"] == [1.0, 1.0]
    assert learner.updates == 0


def test_a_sweep_ends_where_no_task_alone_would_change():
    """With one candidate and an untrained network only the sweep finds the one decision that the score wants."""
    wanted = torch.tensor([2, 0, 1])

    def score(observation: Observation, candidates: Tensor) -> Tensor:
        return (candidates == wanted).double().sum(-1)

    head = Head(lambda outputs, mask, count, keys, call: single_changes(outputs, mask, count), choice_loss)
    mask = torch.ones(2, 1, 3, 3, dtype=torch.bool)
    mask[:, :, 0, 2] = False
    seen = Observation(torch.ones(2, 1, 6), mask, mask[..., 0])
    for sweeps, found in ((1, True), (0, False)):
        settings = ImitationSettings(candidates=1, sweeps=sweeps)
        learner = Imitation(settings, Mlp(6, (8,), 3, 3), lambda part: part, head, score, SEEDS)
        reward = torch.zeros(2, 1)
        action = learner.improved_label(Transition(*seen, learner.act(seen, 0), reward, reward, *seen)).action
        assert (action[..., 0] < 2).all(), "what is not allowed is not chosen"
        assert bool((action[..., 1:] == wanted[1:]).all()) == found


@pytest.mark.parametrize(("best", "limit", "count"), [(0, 5, 2), (1, 5, 3), (1, 2, 2)])
def test_the_number_of_candidates_is_one_more_than_the_best_ones_need(best, limit, count):
    def score(observation: Observation, candidates: Tensor) -> Tensor:
        return -(torch.arange(candidates.shape[-2]) - best).abs().double().expand(candidates.shape[:-1])

    learner = made(adapt_every=8, candidates=limit)
    learner.score = score
    run(loop_of(learner, rounds=1))
    assert learner.count.tolist() == [limit, limit]
    run(loop_of(learner, rounds=1))
    assert learner.count.tolist() == [count, count]


def test_a_learner_does_not_depend_on_those_beside_it():
    both, second = made(), made(seeds=SEEDS[1:])
    run(loop_of(both)), run(loop_of(second))
    torch.testing.assert_close(both.flat[1:], second.flat, rtol=1e-5, atol=1e-7)


def test_a_restored_training_ends_as_one_that_was_not_stopped():
    whole, begun = loop_of(made(adapt_every=12)), loop_of(made(adapt_every=12))
    run(whole)
    for _ in range(25):
        begun.play()
    resumed = loop_of(made(adapt_every=12))
    resumed.restore({name: part.clone() for name, part in begun.tensors().items()})
    run(resumed)
    expected = whole.tensors()
    for name, part in resumed.tensors().items():
        assert part.equal(expected[name]), name


def test_losses_count_tasks_that_exist():
    outputs = torch.tensor([[[[0.0], [3.0]], [[1.0], [2.0]]]])
    batch = Label(
        torch.zeros(1, 2, 1),
        torch.ones(1, 2, 2, 1, dtype=torch.bool),
        torch.tensor([[[True, False], [False, False]]]),
        torch.tensor([[[1, 0], [0, 0]]]),
    )
    assert binary_loss(outputs, batch).item() == pytest.approx(torch.tensor(2.0).log().item())
    logits = torch.tensor([[[[0.0, 0.0, 9.0], [3.0, 1.0, 0.0]], [[1.0, 0.0, 0.0], [2.0, 0.0, 0.0]]]])
    allowed = torch.ones(1, 2, 2, 3, dtype=torch.bool)
    allowed[..., 2] = False
    assert choice_loss(logits, batch._replace(mask=allowed)).item() == pytest.approx(torch.tensor(2.0).log().item())

"""Schedules of SAC-d and DQN end with the training that was asked for, however short or long that is."""

import pytest
import torch

from coinfer.policies.learned.nets import Mlp
from coinfer.rl.algorithms import dqn, sac_d
from coinfer.rl.algorithms.dqn import Dqn
from coinfer.rl.core.batched_optim import linear_decay
from coinfer.rl.core.training import TrainSettings

WORLDS = sac_d.PRESETS["quick"].worlds


@pytest.mark.parametrize("preset", ["quick", "paper"])
@pytest.mark.parametrize("rounds", [40, 100, 1500, 30_000, None])
@pytest.mark.parametrize("scheme", [sac_d, dqn])
def test_schedules_span_the_steps_asked_for(scheme, rounds: int | None, preset: str, monkeypatch: pytest.MonkeyPatch):
    """What `train` hands over is looked at, instead of a training of up to 30 000 rounds."""
    calls = []
    monkeypatch.setattr(scheme, "train_on_options", lambda *arguments, **_: calls.append(arguments))
    scheme.train(TrainSettings("sacd", steps=rounds and rounds * WORLDS, preset=preset))
    _, _, option_settings, make_learner, _ = calls[0]
    rounds = rounds or scheme.PRESETS[preset].loop.rounds
    assert option_settings.loop.rounds == rounds
    updates = sum(len(option_settings.loop.batch_numbers(number)) for number in range(1, rounds + 1))
    assert updates >= 0.95 * rounds

    learner = make_learner(Mlp(2, (4,), 1, 3), torch.arange(1))

    def schedules(done: int) -> tuple[float, float]:
        learner.updates = done
        exploration = learner.epsilon if isinstance(learner, Dqn) else learner.target_entropy()
        return exploration, linear_decay(done, option_settings.learner.learning_rate_decay)

    ends = option_settings.learner.epsilon if isinstance(learner, Dqn) else option_settings.learner.target_entropy
    assert ends[0] > 0.9
    assert ends[1] == 0.05
    assert schedules(0) == (ends[0], 1.0)
    assert schedules(int(0.65 * updates))[0] > ends[1]
    assert schedules(int(0.8 * updates))[0] == pytest.approx(ends[1])
    assert schedules(int(0.4 * updates))[1] == 1.0
    assert 0 < schedules(updates - 1)[1] < 0.15


@pytest.mark.parametrize("scheme", [sac_d, dqn])
def test_a_training_of_one_round_learns_nothing(scheme):
    """What the experiments show as untrained networks."""
    option_settings = scheme.with_rounds(scheme.PRESETS["quick"], 1)
    assert [len(option_settings.loop.batch_numbers(number)) for number in (1,)] == [0]

"""What the loop remembers of a step."""

import pytest
import torch
from tests.rl.core.probes import ConstantReward as Probe
from tests.rl.core.probes import ProbeState
from tests.rl.core.test_probes import dqn

from coinfer.rl.core.loop import Loop, LoopSettings
from coinfer.rl.core.records import Observation


class StepProbe(Probe):
    """A probe that shows the step of truncated episodes too."""

    def observe(self, state: ProbeState) -> Observation:
        observation = super().observe(state)
        return observation._replace(features=torch.stack((state.sign.float(), state.step.float()), -1))


@pytest.mark.parametrize("ends", [False, True])
def test_what_follows_is_of_the_same_episode_and_counts_unless_that_truly_ended(ends: bool):
    settings = LoopSettings(rounds=20, warmup=20, capacity=200, batch=4)
    loop = Loop(settings, StepProbe(length=3, choices=2, ends=ends), dqn(2))
    while loop.round < loop.settings.rounds:
        loop.play()
    assert loop.replay is not None
    memory = loop.replay.tensors()
    step, after = memory["features"][..., 1], memory["next_features"][..., 1]
    assert sorted(step.unique().tolist()) == [0, 1, 2]
    torch.testing.assert_close(after, step + 1)
    torch.testing.assert_close(memory["continues"], 1.0 - (step == 2).float() * ends)

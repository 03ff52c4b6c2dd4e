"""DROO in frames with queues, which stay stable by drift plus penalty, after LyDROO (Bi et al., IEEE TWC 2021).

Each frame the network reads channel gains and the weights w + Q / V of the devices, in which the queues Q are;
candidates are scored by the weighted rate that they give, which is drift plus penalty (`envs.data_queues`), and the
best one is carried out and remembered. As in the paper, candidates come from the outputs and from noisy copies of them,
and network, memory and updates are DROO's. Departures:

- devices are fed by radio, as in DROO, and have no battery, so there is no queue for their mean power;
- the network reads the weights instead of the queues, as their ratios, on which alone the best modes depend;
- each learner plays ten worlds side by side and learns after every frame of all of them, so that 10,000 frames are
  1,000 rounds; the paper plays one.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from coinfer.physics.frame_rates import ungrouped_rates_bps
from coinfer.policies.learned.imitation.frame_policy import FramePolicy, gain_inputs, weight_inputs
from coinfer.rl.algorithms import droo
from coinfer.rl.core.envs.queues import QueueEnv
from coinfer.rl.core.imitation import Imitation
from coinfer.rl.core.loop import Loop
from coinfer.rl.core.records import Observation, label
from coinfer.rl.core.training import RunOptions, TrainingResult, TrainSettings, settings_record, train_loop
from coinfer.scenario.world import QueueWorld

_DROO = droo.PRESETS["quick"]
PRESETS = {"quick": replace(_DROO, loop=replace(_DROO.loop, assess_rounds=500))}
"""That of DROO, with a longer assessment, so that queues can grow; `frames` is the number of worlds of a learner."""


def make_learner(settings: droo.DrooSettings, world: QueueWorld, seeds: Tensor) -> Imitation:
    """Return L learners that are not trained yet.

    Args:
        settings: of the training.
        world: compiled scenario.
        seeds: [L] int64, on the device of the training.
    """
    mean_gain = torch.as_tensor(world.frames.mean_gain, device=seeds.device)

    def inputs(features: Tensor) -> Tensor:
        gain, weight = features.chunk(2, -1)
        return torch.cat((gain_inputs(gain, mean_gain, settings.gain_power), weight_inputs(weight)), -1).float()

    def score(observation: Observation, candidates: Tensor) -> Tensor:
        gain, weight = observation.features.chunk(2, -1)
        return ungrouped_rates_bps(world.frames, gain, weight, candidates)

    devices = len(mean_gain)
    return droo.learner_of(settings, 2 * devices, devices, inputs, score, seeds)


def train(
    settings: TrainSettings, *, lydroo_settings: droo.DrooSettings | None = None, **options: Unpack[RunOptions]
) -> TrainingResult:
    """Train LyDROO for every seed, side by side.

    Args:
        settings: scenario, seeds, length and preset.
        lydroo_settings: settings to use instead of the preset that `settings` names.
        options: as in `RunOptions`.

    Returns:
        One policy for each seed.

    Raises:
        UserError: if scenario, preset or folder is not valid.
    """
    _, world = settings.open_queues()
    chosen = lydroo_settings or settings.find_preset(PRESETS)
    if settings.steps is not None:
        chosen = droo.with_rounds(chosen, max(1, settings.steps // chosen.frames))
    env, held_out = (QueueEnv(part, chosen.frames, settings.device) for part in world.split())
    learner = make_learner(chosen, world, settings.learner_seeds())
    loop = Loop(chosen.loop, env, learner, share=label, held_out=held_out)
    devices = len(world.frames.mean_gain)
    form = (world.frames, chosen.gain_power, min(learner.settings.candidates, devices + 1))

    def make_policies(learner: Imitation) -> tuple[nn.Module, ...]:
        rows = learner.flat.detach().cpu()
        return tuple(FramePolicy(learner.net, row, *form, reads_weights=True) for row in rows)

    return train_loop("lydroo", loop, make_policies, settings_record(settings, "lydroo", world, chosen), **options)

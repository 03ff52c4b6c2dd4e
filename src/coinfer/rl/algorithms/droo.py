"""DROO (Huang, Bi, Zhang, IEEE TMC 2020, arXiv 1808.01977, algorithm 1): who sends and who computes in each frame.

As in the paper: hidden layers of 120 and 80 units, as many candidates as devices, the one of the greatest rate is
decided and remembered, a memory of 1024 frames, a batch of 128 of them every 10 frames, Adam with a learning rate of
0.01. The frames between two updates are decided together, which gives the same decisions as one by one, since the
network stays the same; the adaptive number of candidates therefore changes with rounds of 10 frames. Preset `paper`
differs in no more than that. In preset `quick`, besides,

- there are twice as many candidates, three quarters of them from three noisy copies of the outputs (LyDROO has one
  copy), which finds good modes earlier;
- the network reads standardised square roots of the gains, not the gains, which are mostly near 0;
- the learning rate falls to 0 over the second half of the training, so that the network comes to rest;
- the number of candidates stays, because scoring all of them at once costs hardly more than scoring three.

In scenarios of environment `offload` it is the baseline of GRLE: `rl.algorithms.grle`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from coinfer.envs import wireless_power
from coinfer.physics.frame_rates import grouped_rates_bps
from coinfer.physics.wireless_power import CRITIC_ROUNDS
from coinfer.policies.learned.imitation.frame_policy import FramePolicy, gain_inputs
from coinfer.policies.learned.imitation.quantisers import binary_candidates
from coinfer.policies.learned.nets import Mlp
from coinfer.rl.algorithms import grle
from coinfer.rl.core.batched_optim import uniform
from coinfer.rl.core.envs.frames import FrameEnv
from coinfer.rl.core.imitation import Candidates, Head, Imitation, ImitationSettings, Score, binary_loss
from coinfer.rl.core.loop import Loop, LoopSettings
from coinfer.rl.core.records import Observation, label
from coinfer.rl.core.training import RunOptions, TrainingResult, TrainSettings, settings_record, train_loop
from coinfer.scenario.load import load, parse_changes
from coinfer.scenario.world import WirelessPowerWorld

NOISE_BLOCK = 16
"""Decisions whose noise is drawn together, which is faster than one by one and gives the same numbers."""
FRAMES_OF_PAPER = 10_000
"""Length of the authors' demonstrations."""


@dataclass(frozen=True)
class DrooSettings:
    """Settings of a training."""

    loop: LoopSettings
    learner: ImitationSettings
    """`candidates` counts for each device: 1 gives as many candidates as devices."""
    frames: int = 10
    """W, frames that are decided between two rounds that learn."""
    hidden: tuple[int, ...] = (120, 80)
    copies: int = 3
    """Copies of the outputs with normal noise, each of which gives as many candidates as the outputs themselves."""
    noise: float = 2.0
    """Standard deviation of the noise (LyDROO: 1)."""
    gain_power: float = 0.5
    """Power of the gains that the network reads."""


def with_rounds(settings: DrooSettings, rounds: int) -> DrooSettings:
    """Return settings whose training spans a number of rounds, with an assessment at the end; the learning rate falls
    over the second half if it falls at all.

    Args:
        settings: the settings to change, for instance a preset's.
        rounds: of `frames` frames, at least 1.
    """
    updates = rounds * settings.loop.updates
    decay = None if settings.learner.learning_rate_decay is None else (updates // 2, updates)
    log_every = max(1, min(10, rounds // 10))
    loop = replace(settings.loop, rounds=rounds, log_every=log_every)
    return replace(settings, loop=loop, learner=replace(settings.learner, learning_rate_decay=decay))


def _preset(learner: ImitationSettings, copies: int, gain_power: float) -> DrooSettings:
    loop = LoopSettings(1, warmup=0, capacity=1024, batch=128, assess_rounds=100)
    settings = DrooSettings(loop, learner, copies=copies, gain_power=gain_power)
    return with_rounds(settings, FRAMES_OF_PAPER // settings.frames)


PRESETS = {
    "quick": _preset(ImitationSettings(2, 1e-2, learning_rate_decay=(0, 1)), 3, 0.5),
    "paper": _preset(ImitationSettings(1, 1e-2, adapt_every=30), 0, 1.0),
}
"""Both play 10,000 frames, as the authors' demonstrations do."""


def quantiser(copies: int, noise: float) -> Candidates:
    """Return the quantiser of a training.

    Args:
        copies: noisy copies of the outputs; 0 for order-preserving alone.
        noise: standard deviation of the noise.
    """

    latest: tuple[object, Tensor] | None = None

    def candidates(outputs: Tensor, mask: Tensor, count: int, keys: Tensor, call: int) -> Tensor:
        nonlocal latest
        logits = outputs[..., 0]
        if not copies:
            return binary_candidates(logits, count, None)
        first, shape = call - call % NOISE_BLOCK, (logits.shape[1], copies, logits.shape[2])
        if latest is None or latest[0] != (id(keys), first, shape):
            drawn = uniform(keys, first, shape, NOISE_BLOCK).clamp(1e-7, 1 - 1e-7)
            latest = (id(keys), first, shape), torch.special.ndtri(drawn).mul(noise)
        return binary_candidates(logits, count, latest[1][call - first])

    return candidates


def make_learner(settings: DrooSettings, world: WirelessPowerWorld, seeds: Tensor) -> Imitation:
    """Return L learners that are not trained yet.

    Args:
        settings: of the training.
        world: compiled scenario.
        seeds: [L] int64, on the device of the training.
    """
    tables = wireless_power.load(world, seeds.device)

    def inputs(features: Tensor) -> Tensor:
        gain, _ = features.chunk(2, -1)
        return gain_inputs(gain, tables.mean_gain, settings.gain_power).float()

    def score(observation: Observation, candidates: Tensor) -> Tensor:
        gain, weight = observation.features.chunk(2, -1)
        return grouped_rates_bps(world, tables.weights, gain, weight, candidates, CRITIC_ROUNDS)

    return learner_of(settings, len(world.mean_gain), len(world.mean_gain), inputs, score, seeds)


def learner_of(
    settings: DrooSettings, read: int, devices: int, inputs: Callable[[Tensor], Tensor], score: Score, seeds: Tensor
) -> Imitation:
    """Return L learners with DROO's network and quantiser.

    Args:
        settings: of the training.
        read: numbers that the network reads.
        devices: N
        inputs: from features [L, W, ..] to what the networks read.
        score: what candidates are worth.
        seeds: [L] int64, on the device of the training.
    """
    learner = replace(settings.learner, candidates=settings.learner.candidates * devices)
    head = Head(quantiser(settings.copies, settings.noise), binary_loss)
    return Imitation(learner, Mlp(read, settings.hidden, devices, 1), inputs, head, score, seeds)


def train(
    settings: TrainSettings, *, droo_settings: DrooSettings | None = None, **options: Unpack[RunOptions]
) -> TrainingResult:
    """Train DROO for every seed, side by side, as `grle.train` does if the scenario's environment is `offload`.

    It learns online: each frame is decided once, in the order of the episode.

    Recorded frames are split: the first 80 % are trained on, the others judge.

    Args:
        settings: scenario, seeds, length and preset.
        droo_settings: settings to use instead of the preset that `settings` names.
        options: as in `RunOptions`.

    Returns:
        One policy for each seed.

    Raises:
        UserError: if scenario, preset or folder is not valid.
    """
    if load(settings.scenario, parse_changes(settings.changes)).spec.environment == "offload":
        return grle.train(settings, scheme="droo", **options)
    _, world = settings.open_frames()
    chosen = droo_settings or settings.find_preset(PRESETS)
    if settings.steps is not None:
        chosen = with_rounds(chosen, max(1, settings.steps // chosen.frames))
    training_world, judging_world = world.split()
    env, held_out = (FrameEnv(part, chosen.frames, settings.device) for part in (training_world, judging_world))
    learner = make_learner(chosen, world, settings.learner_seeds())
    loop = Loop(chosen.loop, env, learner, share=label, held_out=held_out)

    def make_policies(learner: Imitation) -> tuple[nn.Module, ...]:
        form = (world, chosen.gain_power, min(learner.settings.candidates, len(world.mean_gain) + 1))
        return tuple(FramePolicy(learner.net, row, *form) for row in learner.flat.detach().cpu())

    return train_loop("droo", loop, make_policies, settings_record(settings, "droo", world, chosen), **options)

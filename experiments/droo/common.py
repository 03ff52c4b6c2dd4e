"""What the figures share: learners that are played frame by frame, rules beside them, and the best rates there are."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from coinfer.envs import wireless_power
from coinfer.evaluate.statistics import interval
from coinfer.physics import random
from coinfer.physics.frame_rates import grouped_rates_bps
from coinfer.policies.heuristics.wireless_power import MODES
from coinfer.profile.measure import this_machine
from coinfer.rl.algorithms.droo import PRESETS, DrooSettings, make_learner, with_rounds
from coinfer.rl.core.envs.frames import FrameEnv
from coinfer.rl.core.loop import Loop
from coinfer.rl.core.records import label
from coinfer.scenario.compile import open_world
from coinfer.scenario.world import WirelessPowerWorld

RESULTS = Path(__file__).parent / "results"
SEEDS, FRAMES = 10, 10_000
CHUNK = 64
NEVER = 10**9


class Played(NamedTuple):
    """Frames of L seeds: what was seen, what a learner decided, and what it cost."""

    gain: Tensor
    """[L, F, N]"""
    weight: Tensor
    """[L, F, N]"""
    rate_bps: Tensor
    """[L, F]"""
    candidates: np.ndarray
    """[F / W] mean number of candidates over the seeds."""
    cpu_s: float
    """Processor time of playing and learning, all seeds together."""


def world_of(devices: int = 10, scenario: str = "droo", **changes: object) -> WirelessPowerWorld:
    world = open_world(scenario, {"devices": devices, **changes}).world
    assert isinstance(world, WirelessPowerWorld)
    return world


def settings_of(
    preset: str = "quick",
    frames: int = FRAMES,
    *,
    trains: bool = True,
    decays: bool = True,
    per_device: int | None = None,
    adapt_every: int | None = None,
    copies: int | None = None,
) -> DrooSettings:
    """The settings of a preset for a number of frames, with changes; without training the network stays as it began."""
    chosen = PRESETS[preset]
    learner = chosen.learner
    learner = replace(
        learner,
        learning_rate_decay=learner.learning_rate_decay if decays else None,
        candidates=learner.candidates if per_device is None else per_device,
        adapt_every=learner.adapt_every if adapt_every is None else adapt_every,
    )
    chosen = replace(chosen, learner=learner, copies=chosen.copies if copies is None else copies)
    chosen = with_rounds(chosen, frames // chosen.frames)
    return chosen if trains else replace(chosen, loop=replace(chosen.loop, update_every=NEVER))


def play(settings: DrooSettings, world: WirelessPowerWorld, seeds: int = SEEDS) -> Played:
    """Train learners side by side, and keep every frame that they decided."""
    keys = random.key(torch.zeros(seeds, dtype=torch.int64), torch.arange(seeds))
    learner = make_learner(settings, world, keys)
    loop = Loop(settings.loop, FrameEnv(world, settings.frames), learner, share=label)
    gains, weights, actions, counts = [], [], [], []
    began_s = time.process_time()
    while loop.round < settings.loop.rounds:
        gain, weight = loop.observation.features.chunk(2, -1)
        steps = loop.step()
        loop.remember(steps)
        for call in settings.loop.batch_numbers(loop.round):
            loop.learn(loop.sample(call))
        gains.append(gain), weights.append(weight), actions.append(steps.action)
        counts.append(learner.count.double().mean())
    cpu_s = time.process_time() - began_s
    gain, weight, action = (torch.cat(parts, 1) for parts in (gains, weights, actions))
    tables = wireless_power.load(world)
    rate_bps = grouped_rates_bps(world, tables.weights, gain, weight, action[..., None, :] > 0)[..., 0]
    return Played(gain, weight, rate_bps, torch.stack(counts).numpy(), cpu_s)


def rule(name: str, world: WirelessPowerWorld, played: Played) -> Tensor:
    """The rates [L, F] of a rule of `MODES` in the same frames."""
    policy = MODES[name](0)
    return _in_chunks(world, played, lambda gain, weight, rates: rates(policy(gain, weight, rates)[:, None])[:, 0])


def best_of_random(world: WirelessPowerWorld, played: Played, count: int) -> Tensor:
    """The rates [L, F] of the best of some random modes of each frame."""
    generator = torch.Generator().manual_seed(1)

    def decide(gain: Tensor, weight: Tensor, rates: Callable[[Tensor], Tensor]) -> Tensor:
        modes = torch.rand(len(gain), count, gain.shape[-1], generator=generator) < 0.5
        return rates(modes).amax(-1)

    return _in_chunks(world, played, decide)


def _in_chunks(world: WirelessPowerWorld, played: Played, decide: Callable[..., Tensor]) -> Tensor:
    tables, parts = wireless_power.load(world), []
    gain, weight = played.gain.flatten(0, 1), played.weight.flatten(0, 1)
    for begin in range(0, len(gain), CHUNK):
        some, theirs = gain[begin : begin + CHUNK], weight[begin : begin + CHUNK]

        def rates(modes: Tensor, some: Tensor = some, theirs: Tensor = theirs) -> Tensor:
            return grouped_rates_bps(world, tables.weights, some, theirs, modes)

        parts.append(decide(some, theirs, rates))
    return torch.cat(parts).unflatten(0, played.gain.shape[:2])


def row(normalised: Tensor, frames: dict[str, slice]) -> dict[str, list[float]]:
    """Mean and half of the 95 % interval over the seeds, for each part of the frames."""
    found = {}
    for name, part in frames.items():
        estimate = interval(normalised[:, part].mean(1).numpy())
        found[name] = [estimate.mean, estimate.half]
    return found


def save(name: str, about: dict[str, object], rows: dict[str, object]) -> None:
    """Write a record, which names the machine."""
    RESULTS.mkdir(exist_ok=True)
    record = {"machine": this_machine().model_dump(), **about, "rows": rows}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def smooth(values: np.ndarray, window: int = 100) -> np.ndarray:
    """Means of windows that follow on each other."""
    return values[: len(values) // window * window].reshape(-1, window).mean(1)

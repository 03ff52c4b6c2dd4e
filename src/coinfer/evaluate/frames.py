"""Runs of policies over the frames of a wireless-power scenario (DROO), as `simulate` for the other environments."""

import time
from functools import partial

import numpy as np
import torch

from coinfer.envs import wireless_power
from coinfer.evaluate.simulate import Run, episode_seeds
from coinfer.policies.heuristics.wireless_power import MODES, ModesPolicy
from coinfer.progress import Progress, quiet
from coinfer.scenario.world import WirelessPowerWorld

DEFAULT_POLICIES = tuple(name for name in MODES if name != "optimum")
MEASURES = {
    "rate_bps": "weighted sum of rates, mean of the frames",
    "normalised": "rate over that of the recorded best modes, mean of the frames; of recorded frames only",
    "sends": "share of devices that send",
}
CHUNK_FRAMES = 2048


@torch.no_grad()
def run(
    world: WirelessPowerWorld,
    name: str,
    seeds: int,
    episodes: int,
    device: str = "cpu",
    progress: Progress = quiet,
    policy: ModesPolicy | None = None,
) -> Run:
    """Run one policy in all frames; no frame depends on another, so many are decided together.

    Args:
        world: a compiled scenario; of recorded frames, the last 20 % are run, which no training has seen.
        name: of `MODES`; with `policy`, any name for tables.
        seeds: number of seeds; each gives one value of every measure.
        episodes: number of episodes of each seed.
        device: of PyTorch.
        progress: called with frames done, frames to do, and the policy's name.
        policy: the policy, if it is not a known one.

    Returns:
        The measures of `MEASURES`; `tasks` counts frames.
    """
    world = world.split()[1]
    tables, policy = wireless_power.load(world, device), policy or MODES[name](0)
    frames = seeds * episodes * world.slots
    episode = episode_seeds(seeds, episodes).repeat_interleave(world.slots)
    slot = torch.arange(world.slots).repeat(seeds * episodes)
    columns: dict[str, list[np.ndarray]] = {"rate_bps": [], "sends": []}
    if world.frames is not None:
        columns["normalised"] = []
    took_s = 0.0
    for begin in range(0, frames, CHUNK_FRAMES):
        progress(begin, frames, name)
        chunk = slice(begin, begin + CHUNK_FRAMES)
        state = wireless_power.state_at(tables, episode[chunk].to(device), slot[chunk].to(device))
        start_s = time.perf_counter()
        rates = partial(wireless_power.rates_bps, tables, state)
        modes = policy(state.gain, state.weight, rates)
        columns["rate_bps"].append(rates(modes[:, None])[:, 0].cpu().numpy())
        took_s += time.perf_counter() - start_s
        columns["sends"].append(modes.double().mean(-1).cpu().numpy())
        if world.frames is not None:
            best = world.frames.rate_bps[wireless_power.recorded_frame(tables, state.seed, state.slot).cpu().numpy()]
            columns["normalised"].append(columns["rate_bps"][-1] / best)
    progress(frames, frames, name)
    measures = {key: np.concatenate(parts).reshape(seeds, -1).mean(-1) for key, parts in columns.items()}
    return Run(name, {key: measures[key] for key in MEASURES if key in measures}, frames, frames / took_s)

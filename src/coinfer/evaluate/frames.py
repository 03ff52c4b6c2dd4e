"""Runs of policies over the frames of a wireless-power scenario (DROO), as `simulate` for the other environments."""

import time

import numpy as np
import torch

from coinfer.envs import wireless_power
from coinfer.evaluate.simulate import Run, episode_seeds
from coinfer.policies.heuristics.wireless_power import MODES
from coinfer.progress import Progress, quiet
from coinfer.scenario.world import WirelessPowerWorld

DEFAULT_POLICIES = tuple(name for name in MODES if name != "optimum")
MEASURES = {"rate_bps": "weighted sum of rates, mean of the frames", "sends": "share of devices that send"}
CHUNK_FRAMES = 2048


@torch.no_grad()
def run(
    world: WirelessPowerWorld,
    name: str,
    seeds: int,
    episodes: int,
    device: str = "cpu",
    progress: Progress = quiet,
) -> Run:
    """Run one policy in all frames; no frame depends on another, so many are decided together.

    Args:
        world: a compiled scenario.
        name: of `MODES`.
        seeds: number of seeds; each gives one value of every measure.
        episodes: number of episodes of each seed.
        device: of PyTorch.
        progress: called with frames done, frames to do, and the policy's name.

    Returns:
        The measures of `MEASURES`; `tasks` counts frames.
    """
    tables, policy = wireless_power.load(world, device), MODES[name](0)
    frames = seeds * episodes * world.slots
    episode = episode_seeds(seeds, episodes).repeat_interleave(world.slots)
    slot = torch.arange(world.slots).repeat(seeds * episodes)
    rate_bps, sends, took_s = [], [], 0.0
    for begin in range(0, frames, CHUNK_FRAMES):
        progress(begin, frames, name)
        chunk = slice(begin, begin + CHUNK_FRAMES)
        state = wireless_power.state_at(tables, episode[chunk].to(device), slot[chunk].to(device))
        start_s = time.perf_counter()
        modes = policy(state.gain, lambda modes, state=state: wireless_power.rates_bps(tables, state, modes))
        rate_bps.append(wireless_power.step(tables, state, modes).allocation.rate_bps.cpu().numpy())
        took_s += time.perf_counter() - start_s
        sends.append(modes.double().mean(-1).cpu().numpy())
    progress(frames, frames, name)
    columns = {"rate_bps": rate_bps, "sends": sends}
    measures = {key: np.concatenate(parts).reshape(seeds, -1).mean(-1) for key, parts in columns.items()}
    return Run(name, measures, frames, frames / took_s)

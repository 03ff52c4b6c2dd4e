"""Runs of policies in a wireless-power scenario with queues, frame after frame; as `frames` without them."""

import time
from functools import partial

import numpy as np
import torch

from coinfer.envs import data_queues
from coinfer.evaluate.simulate import Run, episode_seeds
from coinfer.policies.heuristics.wireless_power import MODES, ModesPolicy
from coinfer.progress import Progress, quiet
from coinfer.scenario.world import QueueWorld

MYOPIC = "myopic"
"""Coordinate descent on the weights without the queues: the greatest rate of the frame, whoever waits."""
POLICIES = (*(name for name in MODES if name != "threshold-search"), MYOPIC)
"""Names on the command line; threshold search needs devices of equal weight, which queues make unequal."""
DEFAULT_POLICIES = tuple(name for name in POLICIES if name != "optimum")
MEASURES = {
    "rate_bps": "weighted sum of the bits that left the queues, mean of the frames",
    "queue_bits": "bits in a device's queue, mean over devices and the second half of the frames",
    "longest_bits": "the same of the device with most",
    "queue_growth": "share of the arriving bits by which the queues grew over the second half of the frames",
    "sends": "share of devices that send",
}


@torch.no_grad()
def run(
    world: QueueWorld,
    name: str,
    seeds: int,
    episodes: int,
    device: str = "cpu",
    progress: Progress = quiet,
    policy: ModesPolicy | None = None,
) -> Run:
    """Run one policy in all episodes side by side.

    Args:
        world: a compiled scenario; of recorded frames, the last 20 % are run, which no training has seen.
        name: of `POLICIES`; with `policy`, any name for tables.
        seeds: number of seeds; each gives one value of every measure.
        episodes: number of episodes of each seed.
        device: of PyTorch.
        progress: called with frames done, frames to do, and the policy's name.
        policy: the policy, if it is not a known one; it is given w + Q / V as weights.

    Returns:
        The measures of `MEASURES`; `tasks` counts frames.
    """
    world = world.split()[1]
    tables = data_queues.load(world, device)
    decide = policy or MODES["coordinate-descent" if name == MYOPIC else name](0)
    state = data_queues.reset(tables, episode_seeds(seeds, episodes).to(device))
    worlds = seeds * episodes
    queues, rates, sends, took_s = [], [], [], 0.0
    for frame in range(world.slots):
        progress(frame * worlds, world.slots * worlds, name)
        begin_s = time.perf_counter()
        weight = state.frame.weight if name == MYOPIC else data_queues.weights(tables, state)
        scores = partial(data_queues.scores_bps, tables, state, weight=weight)
        modes = decide(state.frame.gain, weight, scores)
        took_s += time.perf_counter() - begin_s
        step = data_queues.step(tables, state, modes, weight)
        queues.append(state.queue_bits.cpu().numpy())
        rates.append((step.served_bits * state.frame.weight).sum(-1).cpu().numpy())
        sends.append(modes.double().mean(-1).cpu().numpy())
        state = step.state
    progress(world.slots * worlds, world.slots * worlds, name)
    late = np.stack(queues)[world.slots // 2 :]
    columns = {
        "rate_bps": np.mean(rates, 0),
        "queue_bits": late.mean((0, 2)),
        "longest_bits": late.mean(0).max(-1),
        "queue_growth": _growth(late.mean(2)) / world.arrival_bits,
        "sends": np.mean(sends, 0),
    }
    measures = {key: column.reshape(seeds, -1).mean(-1) for key, column in columns.items()}
    return Run(name, measures, world.slots * worlds, world.slots * worlds / took_s)


def _growth(queue: np.ndarray) -> np.ndarray:
    """Return the slope of a line through queues [F, B] over the frames, [B]; NaN for one frame."""
    frame = np.arange(len(queue)) - (len(queue) - 1) / 2
    squares = (frame**2).sum()
    return (frame[:, None] * queue).sum(0) / squares if squares else np.full(queue.shape[1], np.nan)

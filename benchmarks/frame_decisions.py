"""Measure DROO on its own problem: time of a frame with its share of the training, on one core.

    python benchmarks/frame_decisions.py

Rows, in milliseconds of processor time for a frame: DROO deciding and remembering frames one by one, with an update
every 10; simulated frames in rounds of 10 with an update each, as `coinfer train droo` plays them, alone and with 10
seeds side by side; the published loop written plainly (bisection of each candidate with a scalar Lambert W, K = N, a
fresh Adam for each update); a decision of the exported policy in ONNX Runtime; and what needs no learning: trying all
modes, threshold search and coordinate descent, frame by frame. All take turns; how many times longer the published loop
takes is a figure. `pairs` is how many (frame, modes) pairs the solver does in a millisecond. Writes
benchmarks/results/frame_decisions.json.
"""

import math
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import harness
import numpy as np
import torch
from scipy.special import lambertw
from torch import Tensor, nn

from coinfer.envs import wireless_power
from coinfer.physics import random
from coinfer.policies.frame_onnx import load_frame_policy
from coinfer.policies.heuristics.wireless_power import MODES
from coinfer.policies.learned.imitation.frame_export import export_frame_policy
from coinfer.policies.learned.imitation.frame_policy import FramePolicy
from coinfer.rl.algorithms.droo import PRESETS, make_learner, with_rounds
from coinfer.rl.core.envs.frames import FrameEnv
from coinfer.rl.core.loop import Loop
from coinfer.rl.core.records import Label, Observation, label
from coinfer.rl.core.replay import Replay
from coinfer.scenario.compile import open_world
from coinfer.scenario.world import WirelessPowerWorld

FRAMES = 10
"""Frames of a call, one update included."""
FRAME_BAR_MS = {10: 0.5, 30: 2.0}
PAIRS_BAR = 2000
MILLI = 1e3


def world_of(devices: int) -> WirelessPowerWorld:
    world = open_world("droo", {"devices": devices, "slots": 1_000_000}).world
    assert isinstance(world, WirelessPowerWorld)
    return world


def droo(world: WirelessPowerWorld, seeds: int = 1) -> Callable[[], object]:
    """A call plays a round of FRAMES simulated frames of each seed, and learns once."""
    chosen = with_rounds(PRESETS["quick"], 10**6)
    keys = random.key(torch.zeros(seeds, dtype=torch.int64), torch.arange(seeds))
    return Loop(chosen.loop, FrameEnv(world, FRAMES), make_learner(chosen, world, keys), share=label).play


def online(world: WirelessPowerWorld) -> Callable[[], object]:
    """A call decides and remembers FRAMES frames one by one, and learns once; the frames are there already."""
    chosen = with_rounds(PRESETS["quick"], 10**6)
    env, keys = FrameEnv(world, 1), torch.arange(1)
    learner, calls = make_learner(chosen, world, keys), count()
    _, seen = FrameEnv(world, 2048).reset(keys)
    frames = [Observation(*(part[:, i : i + 1] for part in seen)) for i in range(2048)]
    memory = Replay(chosen.loop.capacity, Label(*frames[0], env.observe(env.reset(keys)[0]).task_mask.long()))

    def decide() -> None:
        number = 0
        for _ in range(FRAMES):
            number = next(calls)
            frame = frames[number % len(frames)]
            memory.add(Label(*frame, learner.act(frame, number)))
        learner.update(memory.sample(keys, number, chosen.loop.batch))

    return decide


class PublishedLoop:
    """DROO's loop as its paper and code state it, in plain scalar Python."""

    def __init__(self, world: WirelessPowerWorld):
        self.world, self.devices = world, len(world.mean_gain)
        self.net = nn.Sequential(
            nn.Linear(self.devices, 120), nn.ReLU(), nn.Linear(120, 80), nn.ReLU(), nn.Linear(80, self.devices)
        )
        self.memory: list[tuple[np.ndarray, np.ndarray]] = []
        self.rng = np.random.default_rng(0)

    def __call__(self) -> None:
        for _ in range(FRAMES):
            gain = self.world.mean_gain * self.rng.exponential(size=self.devices)
            with torch.no_grad():
                output = self.net(torch.as_tensor(gain * 1e6, dtype=torch.float32)).sigmoid().numpy()
            modes = [output > 0.5]
            for threshold in sorted(output, key=lambda p: abs(p - 0.5))[: self.devices - 1]:
                modes.append(output > threshold if threshold > 0.5 else output >= threshold)
            best = max(modes, key=lambda some: self.rate(gain, some))
            self.memory = [*self.memory[-1023:], (gain * 1e6, best)]
        self.learn()

    def learn(self) -> None:
        rows = [self.memory[i] for i in self.rng.integers(len(self.memory), size=128)]
        gain, best = (torch.as_tensor(np.stack(part), dtype=torch.float32) for part in zip(*rows, strict=True))
        optimiser = torch.optim.Adam(self.net.parameters(), lr=0.01)
        loss = nn.functional.binary_cross_entropy_with_logits(self.net(gain), best)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def rate(self, gain: np.ndarray, modes: np.ndarray) -> float:
        """The best rate of modes by bisection of the price, one device at a time."""
        w = self.world
        local = send = 0.0
        senders = []
        for h, weight, sends in zip(gain, w.weight[0], modes, strict=True):
            if sends:
                c = weight * w.bandwidth_hz / (w.overhead * math.log(2))
                senders.append((c, w.harvest_efficiency * w.power_w * h**2 / w.noise_w))
            else:
                power = (w.harvest_efficiency * w.power_w) ** (1 / 3) / w.cycles_per_bit
                local += weight * power * (h / w.capacitance) ** (1 / 3)

        def shares(price: float) -> tuple[float, list[float]]:
            inverse = [1 / (-1 - 1 / lambertw(-math.exp(-1 - price / c)).real) for c, _ in senders]
            return 1 / (1 + sum(s * i for (_, s), i in zip(senders, inverse, strict=True))), inverse

        low, high = 0.0, 1e9
        while high - low > 0.005:
            price = (low + high) / 2
            feed, inverse = shares(price)
            worth = local / 3 * feed ** (-2 / 3)
            worth += sum(c * s / (1 + 1 / i) for (c, s), i in zip(senders, inverse, strict=True) if i > 0)
            low, high = (price, high) if worth > price else (low, price)
        feed, inverse = shares(low)
        for (c, s), i in zip(senders, inverse, strict=True):
            send += c * s * feed * i * math.log1p(1 / i) if i > 0 else 0.0
        return local * feed ** (1 / 3) + send


def exported(world: WirelessPowerWorld, folder: Path) -> Callable[[], object]:
    """A call decides FRAMES frames, one by one, with an exported policy."""
    devices = len(world.mean_gain)
    learner = make_learner(PRESETS["quick"], world, torch.arange(1))
    policy = FramePolicy(learner.net, learner.flat[0], world, 0.5, devices + 1)
    path = folder / f"{devices}.onnx"
    export_frame_policy(path, policy, scheme="droo", scenario="droo", scenario_fingerprint="")
    loaded, state = load_frame_policy(path), frames_of(world, FRAMES)
    rows = list(zip(state.gain.numpy(), state.weight.numpy(), strict=True))
    return lambda: [loaded(gain, weight) for gain, weight in rows]


def frames_of(world: WirelessPowerWorld, number: int) -> wireless_power.State:
    return wireless_power.reset(wireless_power.load(world), torch.arange(number))


def searched(world: WirelessPowerWorld, name: str) -> Callable[[], object]:
    """A call decides FRAMES frames, one by one, with a rule of `MODES`."""
    tables, policy, states = wireless_power.load(world), MODES[name](0), []
    for seed in range(FRAMES):
        states.append(wireless_power.reset(tables, torch.tensor([seed])))

    def decide(state: wireless_power.State) -> Tensor:
        return policy(state.gain, state.weight, partial(wireless_power.rates_bps, tables, state))

    return lambda: [decide(state) for state in states]


def pairs(world: WirelessPowerWorld, frames: int, modes: int) -> Callable[[], object]:
    tables, state = wireless_power.load(world), frames_of(world, frames)
    offloads = torch.rand(frames, modes, len(world.mean_gain), generator=torch.Generator().manual_seed(0)) < 0.5
    return lambda: wireless_power.rates_bps(tables, state, offloads)


def measure(rounds: int, folder: Path, sizes: tuple[int, ...]) -> dict[str, harness.Figure]:
    figures: dict[str, harness.Figure] = {}
    for devices in sizes:
        world = world_of(devices)
        calls = {
            "DROO frame by frame": online(world),
            "DROO in rounds": droo(world),
            "DROO in rounds, 10 seeds": droo(world, 10),
            "published loop": PublishedLoop(world),
            "exported policy": exported(world, folder),
            "threshold-search": searched(world, "threshold-search"),
            "coordinate-descent": searched(world, "coordinate-descent"),
        }
        if devices <= 10:
            calls["all modes"] = searched(world, "optimum")
        took_s = harness.take_turns(calls, rounds, f"{devices} devices", clock=time.process_time)
        for name, values in took_s.items():
            each_ms = values * MILLI / FRAMES / (10 if "10 seeds" in name else 1)
            bar = FRAME_BAR_MS[devices] if name in {"DROO frame by frame", "DROO in rounds"} else None
            figures[f"{name}, N = {devices}, ms"] = harness.figure(each_ms, at_most=bar)
        for name in ("DROO frame by frame", "DROO in rounds"):
            ratio = took_s["published loop"] / took_s[name]
            figures[f"published loop over {name}, N = {devices}"] = harness.figure(ratio)
    took_s = harness.take_turns({"pairs": pairs(world_of(10), 64, 128)}, rounds, "solver", clock=time.process_time)
    figures["pairs, 1/ms"] = harness.figure(64 * 128 / (took_s["pairs"] * MILLI), at_least=PAIRS_BAR)
    return figures


def main() -> None:
    args = harness.parser(__doc__, "frame_decisions").parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(2 if args.quick else 30, Path(folder), (10,) if args.quick else (10, 30))
    harness.save(args, figures)


if __name__ == "__main__":
    main()

"""What the scripts of this folder share: the scenario at given bandwidths, and what policies do there.

Training draws bandwidths evenly; the ones here lie on a grid that no training saw.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from coinfer.envs import offload
from coinfer.envs.batched_env import reward_of
from coinfer.envs.core import State
from coinfer.envs.rewards import Reward
from coinfer.evaluate.oracles import reward_optimum
from coinfer.policies.candidates import candidates_of
from coinfer.policies.heuristics.offload import device_only, greedy
from coinfer.scenario.compile import Compiled, open_world
from coinfer.types import OffloadDecision, OffloadObservation, Outcome, Policy
from coinfer.units import BITS_PER_BYTE, MEGA

HERE = Path(__file__).resolve().parent
POINTS = 250
OPTIMUM, DEVICE, WHOLE, WORST = "optimum", "on device, any exit", "on device, whole network", "worst"
"""`WHOLE` is the paper's On Device: the last exit, whatever energy it takes."""


class AtBandwidths(NamedTuple):
    """A scenario with one bandwidth in each world, G of them."""

    compiled: Compiled
    tables: offload.Tables
    state: State
    seen: OffloadObservation
    reward: Reward
    mbyte_s: np.ndarray
    """[G]"""


class Judged(NamedTuple):
    """What a policy does at each bandwidth; all [G]."""

    option: np.ndarray
    latency_s: np.ndarray
    accuracy: np.ndarray
    energy_j: np.ndarray
    reward: np.ndarray


def results(scenario: str) -> Path:
    return HERE / "results" / Path(scenario).stem


def open_edge(scenario: str, points: int = POINTS) -> AtBandwidths:
    """The scenario from the least to the greatest bandwidth of its links, evenly."""
    compiled = open_world(scenario)
    tables = offload.load(compiled.world, dtype=torch.float64)
    bank = np.asarray(compiled.world.edge.mean_link).max() * np.asarray(compiled.world.edge.link_bank)
    low, high = float(bank.min()), float(bank.max())
    rate_bps = torch.linspace(low, high, points, dtype=torch.float64)[:, None, None]
    state = offload.reset(tables, torch.arange(points))
    state = state._replace(draws=state.draws._replace(link_bps=rate_bps, believed_bps=rate_bps))
    reward = reward_of(compiled.reward)
    mbyte_s = rate_bps.flatten().numpy() / BITS_PER_BYTE / MEGA
    return AtBandwidths(compiled, tables, state, offload.observe(tables, state), reward, mbyte_s)


def judge(edge: AtBandwidths, policy: Policy) -> Judged:
    """What the policy decides and what comes of it; networks see numbers of single precision, as when they learned."""
    fields = (field.float() if field.is_floating_point() else field for field in edge.seen)
    return outcome(edge, policy(OffloadObservation(*fields)))


def outcome(edge: AtBandwidths, decision: OffloadDecision) -> Judged:
    served = offload.serve(edge.tables, edge.state, decision)
    reward = edge.reward(served.outcome, edge.state.draws)
    parts = (decision.option, served.outcome.latency_s, served.outcome.accuracy, served.outcome.energy_j, reward)
    return Judged(*(part.reshape(-1).numpy() for part in parts))


def references(edge: AtBandwidths) -> dict[str, Policy]:
    """What the learners are compared with."""
    optimum = reward_optimum(edge.reward)(edge.tables)
    return {
        OPTIMUM: lambda seen: optimum(edge.state, edge.seen),
        WORST: lambda seen: worst(edge),
        DEVICE: device_only(),
        "greedy": greedy(),
    }


def whole(edge: AtBandwidths) -> Judged:
    """The last exit on the device, with the limit on energy lifted."""
    world, draws = edge.compiled.world, edge.state.draws
    local = int(world.local_option[0, 0])
    tables = (world.option_device_s, world.option_accuracy, world.option_device_j)
    latency_s, accuracy, energy_j = (torch.full_like(draws.deadline_s, float(table[0, 0, local])) for table in tables)
    nothing = torch.zeros_like(latency_s)
    made = Outcome(
        latency_s, nothing, nothing, nothing, nothing, latency_s, energy_j, accuracy,
        draws.task_mask, latency_s <= draws.deadline_s,
    )  # fmt: skip
    parts = (draws.device * 0 + local, latency_s, accuracy, energy_j, edge.reward(made, draws))
    return Judged(*(part.reshape(-1).numpy() for part in parts))


def worst(edge: AtBandwidths) -> OffloadDecision:
    """The allowed choice of least reward: the other end of the range of rewards."""
    found = candidates_of(edge.seen)
    ways = found.mask.shape[-1]
    rewards = [
        outcome(edge, found.decision(torch.full_like(edge.state.draws.device, way))).reward for way in range(ways)
    ]
    value: Tensor = torch.as_tensor(np.stack(rewards, -1))[:, None]
    return found.decision(torch.where(found.mask, value, torch.inf).argmin(-1))


def regrets(judged: Mapping[str, Sequence[Judged]], name: str) -> np.ndarray:
    """[S, G] reward below the optimum's."""
    return judged[OPTIMUM][0].reward - np.stack([one.reward for one in judged[name]])


def summary(edge: AtBandwidths, judged: Mapping[str, Sequence[Judged]]) -> str:
    """Regret of each scheme over the seeds, in shares of the range of rewards."""
    best, least = judged[OPTIMUM][0].reward, judged[WORST][0].reward
    whole_range, range_here = best.max() - least.min(), (best - least).mean()
    lines = [f"range of rewards: {whole_range:.3f} in all, {range_here:.3f} at the mean bandwidth"]
    for name in judged:
        mean = regrets(judged, name).mean(1)
        shares = f"{mean.mean() / whole_range:9.4%} of all, {mean.mean() / range_here:9.4%} of the mean range"
        lines.append(f"{name:26s} regret {mean.mean():.6f} (seeds {mean.min():.6f} to {mean.max():.6f}) = {shares}")
    return "\n".join(lines)


def save(path: Path, edge: AtBandwidths, judged: Mapping[str, Sequence[Judged]]) -> None:
    """Everything that the figures need."""
    record: dict[str, Any] = {"mbyte_s": short(edge.mbyte_s), "summary": summary(edge, judged).splitlines()}
    record["schemes"] = {
        name: [{field: short(values) for field, values in one._asdict().items()} for one in runs]
        for name, runs in judged.items()
    }
    path.write_text(json.dumps(record) + "\n")


def load(scenario: str) -> tuple[np.ndarray, dict[str, list[Judged]]]:
    """Bandwidths [G] and what `save` wrote."""
    record = json.loads((results(scenario) / "judged.json").read_text())
    runs = {
        name: [Judged(**{field: np.array(values) for field, values in one.items()}) for one in listed]
        for name, listed in record["schemes"].items()
    }
    return np.array(record["mbyte_s"]), runs


def short(values: Any) -> list[float]:
    """With six digits."""
    return [float(f"{value:.6g}") for value in values]

"""Runs policies through the same episodes and keeps what each of them did, seed by seed.

Every policy meets the same chance (common random numbers): arrivals, networks, deadlines, links, outages and errors of
an episode follow from its seed alone, whatever is decided.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from coinfer.envs import rewards
from coinfer.envs.batched_env import environment_of
from coinfer.errors import UserError, printable
from coinfer.evaluate import oracles
from coinfer.evaluate.statistics import jain
from coinfer.physics import random
from coinfer.policies import shipped
from coinfer.policies.heuristics.blocks import BLOCKS
from coinfer.policies.heuristics.offload import OFFLOAD
from coinfer.progress import Progress, quiet
from coinfer.scenario.world import BlocksWorld, OffloadWorld
from coinfer.types import BlocksDecision, BlocksObservation, OffloadDecision, OffloadObservation, Outcome

Maker = Callable[[int], Callable[[Any], Any]]
"""From a seed to a policy."""
"""Is told the policy, the slots done and the slots to do."""

MEASURES = {
    "mean_s": "mean latency",
    "p95_s": "95th percentile of the latency",
    "p99_s": "99th percentile of the latency",
    "in_time": "share of tasks answered before their deadline",
    "accuracy": "mean accuracy, 0 for lost tasks",
    "timely_accuracy": "mean accuracy, 0 for late and lost tasks",
    "energy_j": "energy of the device, per task",
    "dropped": "share of tasks lost",
    "refused": "share of tasks that no server took",
    "balance": "Jain index of the work of the servers, over an episode",
    "reward": "of a slot, minus the summed latency unless said otherwise",
}


class Run(NamedTuple):
    """What one policy did."""

    policy: str
    measures: dict[str, np.ndarray]
    """Name of `MEASURES` to its values [S], one a seed."""
    tasks: int
    decisions_per_s: float
    """Tasks decided and simulated in a second of this machine, all worlds together."""


def known_policies(world: OffloadWorld | BlocksWorld) -> Mapping[str, Maker]:
    """Policies by the names of the command line."""
    return {**OFFLOAD, **shipped.makers(world.edge.slot_s)} if isinstance(world, OffloadWorld) else BLOCKS


def episode_seeds(seeds: int, episodes: int, first: int = 0) -> Tensor:
    """[seeds * episodes] int64 of the seeds from `first` on, those of one seed side by side."""
    number = torch.arange(first, first + seeds)
    return random.key(random.key(torch.zeros_like(number), number)[:, None], torch.arange(episodes)).flatten()


@torch.no_grad()
def run_policy(
    world: OffloadWorld | BlocksWorld,
    name: str,
    seeds: int = 10,
    episodes: int = 4,
    maker: Maker | None = None,
    reward: rewards.Reward = rewards.latency,
    device: str = "cpu",
    progress: Progress = quiet,
    oracle: oracles.Oracle | None = None,
    first: int = 0,
) -> Run:
    """One policy in all episodes at once.

    Args:
        episodes: of each seed; their mean is one value.
        maker: the policy where it is not one of the named ones.
        oracle: the same for one that knows the state.
        first: of the seeds, which are numbered; whoever chose something by the first ones takes others to judge it.
    """
    environment = environment_of(world)
    tables = environment.load(world, device)
    decide = oracle(tables) if oracle else _decider(world, tables, name, maker)
    state = environment.reset(tables, episode_seeds(seeds, episodes, first))
    ledger = Ledger(seeds, world.edge.servers)
    took_s = 0.0
    for slot in range(world.edge.slots):
        progress(slot, world.edge.slots, name)
        began_s = time.perf_counter()
        seen = environment.observe(tables, state)
        decision = decide(state, seen)
        stepped = environment.step(tables, state, decision, reward)
        took_s += time.perf_counter() - began_s
        state = stepped.state
        ledger.add(seen.task_mask, stepped.outcome, stepped.reward, stepped.info)
    progress(world.edge.slots, world.edge.slots, name)
    return Run(name, ledger.measures(), ledger.tasks, ledger.tasks / took_s)


def _decider(world: Any, tables: Any, name: str, maker: Maker | None) -> Callable[[Any, Any], Any]:
    """From the state and what is seen of it to a decision; only oracles look at the state."""
    if maker is None and name in oracles.ORACLES:
        return oracles.ORACLES[name](tables)
    policy = (maker or known_policies(world)[name])(0)
    return lambda _, seen: checked(name, policy, seen)


def checked(name: str, policy: Callable[[Any], Any], seen: Any) -> Any:
    """Return what a policy decides, if that is a decision for this observation.

    Raises:
        UserError: if the policy fails, or a field has another shape or no whole numbers; one line.
    """
    kind, shaped = DECISIONS[type(seen)]
    try:
        decision = policy(seen)
    except UserError:
        raise
    except Exception as error:
        reason = printable(str(error), 200)
        raise UserError(f"policy {name} failed on an observation: {type(error).__name__}: {reason}") from error
    expected = getattr(seen, shaped).shape
    for field in kind._fields:
        value = getattr(decision, field, None)
        if not isinstance(value, Tensor):
            got = "nothing" if value is None else f"a {type(value).__name__}"
            raise UserError(f"policy {name}: decision.{field} is {got}, expected a tensor {list(expected)} of int64")
        if value.shape != expected:
            axes, got = "[B, K, M]" if len(expected) == 3 else "[B, K]", list(value.shape)
            raise UserError(f"policy {name}: decision.{field} has shape {got}, expected {axes} = {list(expected)}")
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            raise UserError(f"policy {name}: decision.{field} is of {value.dtype}, expected whole numbers (int64)")
    return decision


DECISIONS: dict[type, tuple[Any, str]] = {
    OffloadObservation: (OffloadDecision, "task_mask"),
    BlocksObservation: (BlocksDecision, "block_mask"),
}
"""For each observation, what a policy answers, and a field that has the axes of the answer's fields."""


class Ledger:
    """Collects the outcomes of slots, B = seeds * episodes worlds each."""

    def __init__(self, seeds: int, servers: int):
        self.seeds, self.tasks = seeds, 0
        self._there: list[np.ndarray] = []
        self._fields: dict[str, list[np.ndarray]] = {}
        self._reward: list[np.ndarray] = []
        self._load: Any = 0.0

    def add(self, there: Tensor, outcome: Outcome, reward: Tensor, info: Any) -> None:
        self.tasks += int(there.sum())
        self._there.append(there.cpu().numpy())
        flags = {"in_time": outcome.in_time, "dropped": info.dropped, "refused": info.refused}
        values = {"latency_s": outcome.latency_s, "accuracy": outcome.accuracy, "energy_j": outcome.energy_j}
        for name, field in {**flags, **values}.items():
            self._fields.setdefault(name, []).append(field.cpu().numpy())
        self._reward.append(reward.cpu().numpy())
        self._load = self._load + info.server_work_s.double().cpu().numpy()

    def measures(self) -> dict[str, np.ndarray]:
        """Values [S] of every measure; NaN where a seed has no task."""
        there = self._by_seed(self._there).astype(bool)
        fields = {name: self._by_seed(parts) for name, parts in self._fields.items()}
        balance = jain(self._load.reshape(self.seeds, -1, self._load.shape[-1]))
        found = {
            "mean_s": _means(fields["latency_s"], there),
            "p95_s": _percentiles(fields["latency_s"], there, 95),
            "p99_s": _percentiles(fields["latency_s"], there, 99),
            "timely_accuracy": _means(fields["accuracy"] * fields["in_time"], there),
            "balance": _means(balance, np.isfinite(balance)),
            "reward": self._by_seed(self._reward).mean(-1),
        }
        found |= {name: _means(fields[name], there) for name in fields if name != "latency_s"}
        return {name: found[name] for name in MEASURES}

    def _by_seed(self, parts: list[np.ndarray]) -> np.ndarray:
        """[S, everything of the seed]"""
        return np.stack(parts, 1).reshape(self.seeds, -1)


def _means(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    return np.array(
        [row[mask].mean(dtype=float) if mask.any() else np.nan for row, mask in zip(values, there, strict=True)]
    )


def _percentiles(values: np.ndarray, there: np.ndarray, percent: float) -> np.ndarray:
    rows = zip(values, there, strict=True)
    return np.array([np.percentile(row[mask], percent) if mask.any() else np.nan for row, mask in rows])

"""Runs of policies through the same episodes, with the measures of each seed.

All policies have the same random inputs (common random numbers): arrivals, networks, deadlines, links, outages and
errors of an episode follow from its seed alone, whatever is decided.
"""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from coinfer.envs import blocks, offload, rewards
from coinfer.envs.batched_env import environment_of
from coinfer.envs.core import Info, Revisions, State
from coinfer.errors import UserError, printable
from coinfer.evaluate import blocks_oracles, oracles, serving_slots
from coinfer.evaluate.statistics import jain
from coinfer.physics import random
from coinfer.policies import shipped
from coinfer.policies.heuristics.block_rules import BLOCKS
from coinfer.policies.heuristics.blocks import BlocksPolicy
from coinfer.policies.heuristics.offload import OFFLOAD
from coinfer.progress import Progress, quiet
from coinfer.scenario.world import BlocksWorld, OffloadWorld
from coinfer.types import BlocksDecision, BlocksObservation, OffloadDecision, OffloadObservation, Outcome, Policy

Observation = OffloadObservation[Tensor] | BlocksObservation[Tensor]
Decision = OffloadDecision[Tensor] | BlocksDecision[Tensor]
AnyPolicy = Policy[Tensor] | BlocksPolicy
Maker = Callable[[int], AnyPolicy]
"""From a seed to a policy."""

MEASURES = {
    "mean_s": "mean latency",
    "p95_s": "95th percentile of the latency",
    "p99_s": "99th percentile of the latency",
    "local_s": "mean time on the device, with waiting there (local delay)",
    "edge_s": "mean time outside the device: links, servers and waiting there (edge delay)",
    "in_time": "share of tasks answered before their deadline",
    "accuracy": "mean accuracy, 0 for lost tasks",
    "timely_accuracy": "mean accuracy, 0 for late and lost tasks",
    "throughput": "tasks of a world answered before their deadline, per second",
    "energy_j": "energy of the device, per task",
    "dropped": "share of tasks lost",
    "refused": "share of tasks that no server took",
    "balance": "Jain index of the work of the servers, over an episode",
    "reward": "of a slot, by default minus the summed latency",
}


class Run(NamedTuple):
    """The results of one policy."""

    policy: str
    measures: dict[str, np.ndarray]
    """Name of `MEASURES` to its values [S], one per seed."""
    tasks: int
    decisions_per_s: float
    """Tasks that this machine decided and simulated per second, all worlds together."""


def known_policies(world: OffloadWorld | BlocksWorld) -> Mapping[str, Maker]:
    """Return the makers of all named policies for a world, by their names on the command line.

    Args:
        world: a compiled scenario.
    """
    return {**OFFLOAD, **shipped.makers(world.edge.slot_s)} if isinstance(world, OffloadWorld) else BLOCKS


def known_oracles(world: OffloadWorld | BlocksWorld) -> Mapping[str, Callable[..., Callable[..., Decision]]]:
    """Return what makes the deciders of a world that know its true state, by their names on the command line.

    Args:
        world: a compiled scenario.
    """
    if isinstance(world, BlocksWorld):
        return blocks_oracles.BLOCKS_ORACLES
    return oracles.ORACLES if world.serving is None else {**oracles.ORACLES, **serving_slots.rules(world)}


def episode_seeds(seeds: int, episodes: int, first: int = 0) -> Tensor:
    """Return the seeds of episodes, [seeds * episodes] int64, those of one seed side by side.

    Args:
        seeds: number of seeds.
        episodes: number of episodes of each seed.
        first: number of the first seed.
    """
    number = torch.arange(first, first + seeds)
    return random.key(random.key(torch.zeros_like(number), number)[:, None], torch.arange(episodes)).flatten()


@torch.no_grad()
def run_policy(
    world: OffloadWorld | BlocksWorld,
    name: str,
    seeds: int = 10,
    episodes: int = 4,
    maker: Maker | None = None,
    *,
    reward: rewards.Reward = rewards.latency,
    device: str = "cpu",
    progress: Progress = quiet,
    oracle: oracles.Oracle | None = None,
    first: int = 0,
    warm_up: int = 0,
) -> Run:
    """Run one policy in all episodes at once.

    Args:
        world: a compiled scenario.
        name: of a known policy or an oracle; with `maker` or `oracle`, any name for tables.
        seeds: number of seeds; each gives one value of every measure.
        episodes: number of episodes of each seed; a value is their mean.
        maker: from a seed to the policy, if it is not a known one.
        reward: from the outcome and draws of a slot to rewards [B].
        device: of PyTorch.
        progress: called with slots done, slots to do, and `name`.
        oracle: makes a decider that knows the state, instead of a policy.
        first: number of the first seed. Choose a policy by some seeds and judge it by others.
        warm_up: slots at the beginning that are played, but not measured.

    Returns:
        Values of all `MEASURES`, one per seed.

    Raises:
        UserError: if the policy fails or its decision is not valid; one line.
    """
    if not 0 <= warm_up < world.edge.slots:
        raise UserError(f"warm_up {warm_up}: expected a number of slots from 0 to {world.edge.slots - 1}")
    environment = environment_of(world)
    tables = environment.load(world, device)
    decide = _from_oracle(oracle, tables) if oracle else _decider(world, tables, name, maker)
    state = environment.reset(tables, episode_seeds(seeds, episodes, first))
    log = OutcomeLog(seeds, world.edge.slot_s, warm_up)
    took_s = 0.0
    for slot in range(world.edge.slots):
        progress(slot, world.edge.slots, name)
        start_s = time.perf_counter()
        observation = environment.observe(tables, state)
        decision = decide(state, observation)
        stepped = environment.step(tables, state, decision, reward)
        took_s += time.perf_counter() - start_s if slot >= warm_up else 0.0
        state = stepped.state
        log.add(observation.task_mask, stepped.outcome, stepped.reward, stepped.info)
    progress(world.edge.slots, world.edge.slots, name)
    return Run(name, log.measures(), log.tasks, log.tasks / took_s)


def _decider(
    world: OffloadWorld | BlocksWorld, tables: offload.Tables | blocks.Tables, name: str, maker: Maker | None
) -> Callable[[State, Observation], Decision]:
    """Return a function from the state and its observation to a decision; only oracles read the state."""
    known, clairvoyant = known_policies(world), known_oracles(world)
    if maker is None and name in clairvoyant:
        return cast(Callable[[State, Observation], Decision], clairvoyant[name](tables))
    if maker is None and name not in known:
        raise UserError(f"no policy {name!r} for {world.name}; there are {', '.join((*known, *clairvoyant))}")
    policy = (maker or known[name])(0)
    return lambda _, observation: checked_decision(name, policy, observation)


def _from_oracle(
    oracle: oracles.Oracle, tables: offload.Tables | blocks.Tables
) -> Callable[[State, Observation], Decision]:
    return cast(Callable[[State, Observation], Decision], oracle(cast(offload.Tables, tables)))


def checked_decision(name: str, policy: AnyPolicy, observation: Observation) -> Decision:
    """Return the decision of a policy, if it is one for this observation.

    Args:
        name: of the policy, for messages.
        policy: called once.
        observation: of the worlds.

    Raises:
        UserError: if the policy fails, or a field has another shape or no whole numbers; one line.
    """
    kind, shaped = DECISIONS[type(observation)]
    try:
        decision = cast(Callable[[Observation], Decision], policy)(observation)
    except UserError:
        raise
    except Exception as error:
        reason = printable(str(error), 200)
        raise UserError(f"policy {name} failed on an observation: {type(error).__name__}: {reason}") from error
    expected = getattr(observation, shaped).shape
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


DECISIONS: dict[type, tuple[type[OffloadDecision[Tensor]] | type[BlocksDecision[Tensor]], str]] = {
    OffloadObservation: (OffloadDecision, "task_mask"),
    BlocksObservation: (BlocksDecision, "block_mask"),
}
"""For each kind of observation the kind of decision, and a field of it with the axes of the decision's fields."""


class OutcomeLog:
    """The outcomes of an episode, slot after slot, in B = seeds * episodes worlds.

    Args:
        seeds: number of seeds; the worlds of one seed are side by side.
        slot_s: length of a slot.
        warm_up: slots at the beginning that are not measured.
    """

    def __init__(self, seeds: int, slot_s: float, warm_up: int = 0):
        self.seeds, self.slot_s, self.tasks = seeds, slot_s, 0
        self._warm_up = warm_up
        self._task_mask: list[np.ndarray] = []
        self._fields: dict[str, list[np.ndarray]] = {}
        self._reward: list[np.ndarray] = []
        self._load: np.ndarray | float = 0.0

    def add(self, task_mask: Tensor, outcome: Outcome[Tensor], reward: Tensor, info: Info) -> None:
        """Add the outcome of a slot.

        Args:
            task_mask: [B, K]
            outcome: [B, K]
            reward: [B]
            info: of the same step.
        """
        if len(self._reward) >= self._warm_up:
            self.tasks += int(task_mask.sum())
            self._load = self._load + info.server_work_s.double().cpu().numpy()
        self._task_mask.append(task_mask.cpu().numpy())
        flags = {"in_time": outcome.in_time, "dropped": info.dropped, "refused": info.refused}
        values = {"latency_s": outcome.latency_s, "accuracy": outcome.accuracy, "energy_j": outcome.energy_j}
        values |= {"local_s": outcome.device_s, "edge_s": outcome.latency_s - outcome.device_s}
        for name, field in {**flags, **values}.items():
            self._fields.setdefault(name, []).append(field.cpu().numpy())
        self._reward.append(reward.cpu().numpy())
        if info.revisions is not None:
            self._revise(info.revisions)

    def _revise(self, revisions: Revisions) -> None:
        """Write down how tasks of earlier slots come off now."""
        worlds = revisions.mask.nonzero()[:, 0].cpu().numpy()
        slot, number, latency_s, deadline_s = (
            field[revisions.mask].cpu().numpy()
            for field in (revisions.slot, revisions.number, revisions.latency_s, revisions.deadline_s)
        )
        for of in np.unique(slot):
            place = (worlds[slot == of], number[slot == of])
            fields = {name: parts[of] for name, parts in self._fields.items()}
            fields["edge_s"][place] += latency_s[slot == of] - fields["latency_s"][place]
            fields["latency_s"][place] = latency_s[slot == of]
            fields["in_time"][place] = latency_s[slot == of] <= deadline_s[slot == of]

    def measures(self) -> dict[str, np.ndarray]:
        """Return the values [S] of every measure of `MEASURES`, one per seed; NaN if a seed has no task."""
        task_mask = self._by_seed(self._task_mask).astype(bool)
        fields = {name: self._by_seed(parts) for name, parts in self._fields.items()}
        load = np.asarray(self._load)
        balance = jain(load.reshape(self.seeds, -1, load.shape[-1]))
        measures = {
            "mean_s": _means(fields["latency_s"], task_mask),
            "p95_s": _percentiles(fields["latency_s"], task_mask, 95),
            "p99_s": _percentiles(fields["latency_s"], task_mask, 99),
            "timely_accuracy": _means(fields["accuracy"] * fields["in_time"], task_mask),
            "throughput": self._throughput(),
            "balance": _means(balance, np.isfinite(balance)),
            "reward": self._by_seed(self._reward).mean(-1),
        }
        measures |= {name: _means(fields[name], task_mask) for name in fields if name != "latency_s"}
        return {name: measures[name] for name in MEASURES}

    def _throughput(self) -> np.ndarray:
        """Return the tasks in time per second and world, [S]."""
        in_time = np.stack([flags.sum(-1) for flags in self._fields["in_time"][self._warm_up :]], -1)
        return in_time.reshape(self.seeds, -1).mean(-1) / self.slot_s

    def _by_seed(self, parts: list[np.ndarray]) -> np.ndarray:
        """Return an array [S, all values of the seed]."""
        return np.stack(parts[self._warm_up :], 1).reshape(self.seeds, -1)


def _means(values: np.ndarray, task_mask: np.ndarray) -> np.ndarray:
    return np.array(
        [row[mask].mean(dtype=float) if mask.any() else np.nan for row, mask in zip(values, task_mask, strict=True)]
    )


def _percentiles(values: np.ndarray, task_mask: np.ndarray, percent: float) -> np.ndarray:
    rows = zip(values, task_mask, strict=True)
    return np.array([np.percentile(row[mask], percent) if mask.any() else np.nan for row, mask in rows])

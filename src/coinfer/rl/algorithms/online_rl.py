"""Online RL: tabular Q-learning for requests that are decided one after another, after Xu et al. (IEEE TPDS 2021, DOI
10.1109/TPDS.2020.3032443), a baseline of CDO-DSAC. Of the published method only the abstract and what CDO-DSAC's paper
says of it are public, so the form is our reading: one central learner; a request's state is its network, how loaded
each server is in a few steps, and how good its link is; its action is a server, or to be rejected, which leaves it to
its device. Reward is minus the latency; the next request's state follows, after a slot's last one that of the next
slot's first.

Our choices. A load's steps are shares of the threshold, the greatest deadline. Servers are equal in the papers' world,
so the table is over loads in ascending order (equal steps in the order of the servers), which shares what was learned
of one order with all others. Slots are drawn from the same memory as the other learners', each about twice, and all
requests of a draw learn side by side. Loads are those at the slot's beginning, which is the paper's state (III); with
`running_queues` the learner also counts what it has itself sent in this slot, as a central admission that takes one
request after another could.
"""

from dataclasses import dataclass, replace
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from coinfer.envs import offload
from coinfer.physics import random
from coinfer.policies.learned.placements import Placements, fixed_cut
from coinfer.rl.core.batched_optim import interpolate, sample_categorical, uniform
from coinfer.rl.core.loop import Loop, LoopSettings
from coinfer.rl.core.placement_env import PlacementEnv
from coinfer.rl.core.records import Observation, Transition
from coinfer.rl.core.training import RunOptions, TrainingResult, TrainSettings, settings_record, train_loop
from coinfer.scenario.world import OffloadWorld
from coinfer.types import OffloadDecision, OffloadObservation

_WHETHER, _WHICH = range(2)


@dataclass(frozen=True)
class OnlineRlSettings:
    """Defaults are preset `quick`."""

    worlds: int = 20
    """Of each learner."""
    rounds: int = 3000
    """Slots that each world plays."""
    batch: int = 40
    """Slots drawn for an update; one update a round."""
    memory: int = 4000
    """Slots."""
    steps: tuple[float, ...] = (0.1, 0.3, 0.7)
    """Between two levels of load, as shares of the threshold: four levels."""
    rates_bps: tuple[float, ...] = (30e6, 60e6)
    """Between two levels of the mean link."""
    learning_rate: float = 0.1
    gamma: float = 0.99
    epsilon: tuple[float, float] = (1.0, 0.01)
    """Share of random choices, at first and at last."""
    epsilon_updates: int = 2000
    """Updates from the one to the other."""
    running_queues: bool = False
    """Whether loads count what was sent earlier in the slot."""
    assess_every: int = 250
    """Rounds to an assessment on held-out worlds."""


PAPER = OnlineRlSettings(rounds=500_000, epsilon_updates=300_000, memory=20_000, assess_every=10_000)
PRESETS = {"quick": OnlineRlSettings(), "paper": PAPER}


def with_rounds(settings: OnlineRlSettings, rounds: int) -> OnlineRlSettings:
    """Return settings for so many rounds: epsilon falls over 60 % of them."""
    rounds = max(1, rounds)
    epsilon_updates = max(1, int(0.6 * rounds))
    return replace(settings, rounds=rounds, epsilon_updates=epsilon_updates, assess_every=max(10, rounds // 20))


@dataclass(frozen=True)
class Grid:
    """How a request becomes a row of the table."""

    servers: int
    """N"""
    loads_s: tuple[float, ...]
    """Between two levels of a server's load."""
    rates_bps: tuple[float, ...]
    """Between two levels of the mean link."""
    works_s: tuple[float, ...]
    """Between two kinds of request, by their work on a server."""
    running_queues: bool
    """As in `OnlineRlSettings`."""

    @property
    def levels(self) -> int:
        """Levels of a server's load."""
        return len(self.loads_s) + 1

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return self.levels**self.servers * (len(self.rates_bps) + 1) * (len(self.works_s) + 1)

    def features(self, seen: OffloadObservation, placements: Placements) -> Tensor:
        """Return what the learner sees of each request [.., K, 1 + 2 N]: its kind and rate as one number, its work on
        each server, and the servers' loads at the slot's beginning."""
        work_s = placements.service_s[..., : self.servers]
        kind = _level(work_s.mean(-1), self.works_s) * (len(self.rates_bps) + 1)
        kind = kind + _level(seen.uplink_bps.mean(-1), self.rates_bps)
        load_s = seen.server_backlog_s[..., None, :].expand_as(work_s)
        return torch.cat((kind[..., None].to(work_s.dtype), work_s, load_s), -1)

    def row(self, kind: Tensor, load_s: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows [..] for requests of kinds [..] with loads [.., N], and the servers [.., N] by rising level."""
        level = _level(load_s, self.loads_s)
        number = torch.arange(self.servers, device=kind.device)
        order = (level * self.servers + number).sort(-1).indices
        weight = self.levels**number
        return kind.long() * self.levels**self.servers + (level.gather(-1, order) * weight).sum(-1), order

    def loads_s_of(self, features: Tensor, place: Tensor, task_mask: Tensor) -> Tensor:
        """Return the loads [.., K, N] that each request found, given the places [.., K] that those before it took."""
        work_s, load_s = features[..., 1 : 1 + self.servers], features[..., 1 + self.servers :]
        if not self.running_queues:
            return load_s
        sent = functional.one_hot(place, self.servers + 1)[..., : self.servers] * task_mask[..., None]
        added_s = work_s * sent
        return load_s + added_s.cumsum(-2) - added_s


class OnlineRl:
    """L learners, one a seed; `values` [L, rows, N + 1] by place in the order of the loads, the last for rejecting.

    Args:
        keys: [L] int64, where random choices come from.
    """

    def __init__(self, settings: OnlineRlSettings, grid: Grid, keys: Tensor):
        self.settings, self.grid, self.keys, self.updates = settings, grid, keys, 0
        self.values = torch.zeros((len(keys), grid.rows, grid.servers + 1), device=keys.device)

    @property
    def epsilon(self) -> float:
        """Share of random choices now."""
        return interpolate(self.settings.epsilon, self.updates, self.settings.epsilon_updates)

    @torch.no_grad()
    def act(self, observation: Observation, call: int, explore: bool = True) -> Tensor:
        """Return places [L, W, K]: the best by value, or, with probability epsilon, any."""
        best = decide(self.grid, self.values, observation.features, observation.mask, observation.task_mask)
        if not explore:
            return best
        shape = observation.task_mask.shape[1:]
        any_ = sample_categorical(observation.mask.float(), uniform(random.key(self.keys, _WHICH), call, shape))
        return torch.where(uniform(random.key(self.keys, _WHETHER), call, shape) < self.epsilon, any_, best)

    @torch.no_grad()
    def update(self, batch: Transition) -> dict[str, Tensor]:
        """Learn from all requests of a batch and return metrics [L].

        Requests of one row and action count by their mean, weighted as if they had come one after another.
        """
        n, task_mask = self.grid.servers, batch.task_mask
        row, order = self.grid.row(
            batch.features[..., 0], self.grid.loads_s_of(batch.features, batch.action, batch.task_mask)
        )
        action = torch.where(
            batch.action < n, order.argsort(-1).gather(-1, batch.action.clamp(max=n - 1)[..., None])[..., 0], n
        )
        next_row, _ = self.grid.row(batch.next_features[..., 0, 0], batch.next_features[..., 0, 1 + n :])
        last = task_mask & ~functional.pad(task_mask[..., 1:], (0, 1))
        following = torch.cat((row[..., 1:], row[..., -1:]), -1)
        following = torch.where(last, next_row[..., None], following)
        rows = self.values.shape[1]
        base = (torch.arange(len(row), device=row.device) * rows)[:, None, None]
        flat = self.values.view(-1, n + 1)
        target = batch.reward + self.settings.gamma * flat[base + following].amax(-1) * batch.continues[..., None]
        place = ((base + row) * (n + 1) + action)[task_mask]
        error = target[task_mask] - flat.view(-1)[place]
        unique, which = place.unique(return_inverse=True)
        hits = torch.zeros(len(unique), device=flat.device).index_add_(0, which, torch.ones_like(error))
        total = torch.zeros(len(unique), device=flat.device).index_add_(0, which, error)
        flat.view(-1)[unique] += (1 - (1 - self.settings.learning_rate) ** hits) * total / hits
        self.updates += 1
        return {"error": (target - flat[base + row].gather(-1, action[..., None])[..., 0]).abs().mean((1, 2))}

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a checkpoint must hold, by name."""
        return {"values": self.values, "updates": torch.tensor(self.updates)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` returned."""
        self.values.copy_(tensors["values"])
        self.updates = int(tensors["updates"])


def decide(grid: Grid, values: Tensor, features: Tensor, mask: Tensor, task_mask: Tensor) -> Tensor:
    """Return the places [L, W, K] of greatest value, for features [L, W, K, ..] and mask [L, W, K, N + 1]."""
    if not grid.running_queues:
        return _best(grid, values, features[..., 0], features[..., 1 + grid.servers :], mask)
    load_s, found = features[..., 0, 1 + grid.servers :], []
    for k in range(features.shape[-2]):
        best = _best(grid, values, features[..., k : k + 1, 0], load_s[..., None, :], mask[..., k : k + 1, :])
        sent = functional.one_hot(best[..., 0], grid.servers + 1)[..., : grid.servers] * task_mask[..., k : k + 1]
        load_s = load_s + features[..., k, 1 : 1 + grid.servers] * sent
        found.append(best)
    return torch.cat(found, -1)


def _best(grid: Grid, values: Tensor, kind: Tensor, load_s: Tensor, mask: Tensor) -> Tensor:
    n = grid.servers
    row, order = grid.row(kind, load_s)
    base = (torch.arange(values.shape[0], device=row.device) * values.shape[1]).reshape(-1, *[1] * (row.dim() - 1))
    found = values.reshape(-1, n + 1)[row + base]
    can = torch.cat((mask[..., :n].gather(-1, order), mask[..., n:]), -1)
    action = torch.where(can, found, -torch.inf).argmax(-1)
    server = order.gather(-1, action.clamp(max=n - 1)[..., None])[..., 0]
    return torch.where(action < n, server, n)


def _level(value: Tensor, steps: tuple[float, ...]) -> Tensor:
    """How many of the steps a value lies above."""
    level = torch.zeros_like(value, dtype=torch.int64)
    for step in steps:
        level = level + (value > step)
    return level


def make_grid(settings: OnlineRlSettings, world: OffloadWorld) -> Grid:
    """Return the steps for one world: thresholds and works lie between what occurs there."""
    deadlines = torch.as_tensor(world.edge.deadline_s).flatten()
    finite = deadlines[deadlines.isfinite()]
    threshold_s = float(finite.max()) if len(finite) else 1.0
    tables = offload.load(world)
    work_s = torch.where(tables.exists[..., None], tables.server_s, 0.0).amax(1).mean(-1).unique()
    between = ((work_s[1:] * work_s[:-1]).clamp(min=1e-12).sqrt()).tolist()
    loads_s = tuple(step * threshold_s for step in settings.steps)
    return Grid(world.edge.servers, loads_s, settings.rates_bps, tuple(between), settings.running_queues)


class TablePolicy(nn.Module):
    """What one learner decides; a module, so that `policies.learned.export` can take it.

    Args:
        values: [L, rows, N + 1]; observations [L * W, ..] are those of the L learners side by side, W of each.
    """

    values: Tensor

    def __init__(self, grid: Grid, values: Tensor):
        super().__init__()
        self.grid = grid
        self.register_buffer("values", values.detach().clone())

    @torch.no_grad()
    def forward(self, observation: OffloadObservation) -> OffloadDecision:
        placements = fixed_cut(observation)
        inputs = (self.grid.features(observation, placements), placements.mask, observation.task_mask)
        count = self.values.shape[0]
        features, mask, task_mask = (
            (part.unflatten(0, (count, -1)) for part in inputs) if count > 1 else (p[None] for p in inputs)
        )
        return placements.decision(decide(self.grid, self.values, features, mask, task_mask).flatten(0, 1))


def make_loop(
    settings: OnlineRlSettings, world: OffloadWorld, seeds: Tensor, device: str | torch.device = "cpu"
) -> Loop[OnlineRl]:
    """Return everything that trains L seeds [L], ready for `rl.core.loop.run`."""
    keys = random.key(seeds.to(device), 0)
    grid = make_grid(settings, world)
    loop_settings = LoopSettings(
        rounds=settings.rounds,
        warmup=0,
        capacity=settings.memory,
        batch=settings.batch,
        log_every=settings.assess_every,
        assess_every=settings.assess_every,
    )
    env = PlacementEnv(world, settings.worlds, grid.features, fixed_cut, device)
    return Loop(loop_settings, env, OnlineRl(settings, grid, keys))


def train(settings: TrainSettings, **options: Unpack[RunOptions]) -> TrainingResult:
    """Train one table for every seed, from each task's latency, whatever the scenario's reward is.

    Args:
        options: as in `RunOptions`.

    Raises:
        UserError: if scenario, preset or folder are not as they must be; one line.
    """
    _, world = settings.open()
    chosen = settings.named_preset(PRESETS)
    if settings.steps is not None:
        chosen = with_rounds(chosen, settings.steps // chosen.worlds)

    def make_policies(learner: OnlineRl) -> tuple[nn.Module, ...]:
        return tuple(TablePolicy(learner.grid, row[None]) for row in learner.values.cpu())

    record = settings_record(settings, "online-rl", world, chosen)
    loop = make_loop(chosen, world, settings.learner_seeds(), settings.device)
    return train_loop("online-rl", loop, make_policies, record, **options)

"""Online RL: tabular Q-learning that decides requests one after another, after Xu et al. (IEEE TPDS 2021, DOI
10.1109/TPDS.2020.3032443), a baseline of CDO-DSAC. Only the abstract of the published method and the description in
CDO-DSAC's paper are public, so the form is our reading: one central learner; a request's state is its network, the load
of each server in a few levels, and the quality of its link; its action is a server, or rejection, which leaves it to
its device. The reward is minus the latency; the next state is that of the next request, which after a slot's last one
is the next slot's first.

Our choices. The levels of load are shares of the threshold, which is the greatest deadline. Servers are equal in the
papers' world, so the table is over loads in ascending order (equal levels in the order of the servers), and all orders
share what is learned of one. Slots are sampled from a memory like that of the other learners, each about twice, and all
requests of a sample learn side by side. Loads are those at the slot's beginning, which is the paper's state (III); with
`running_queues` the learner also counts its own earlier requests of the slot, as a central admission that decides one
request after another could.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import Unpack

from coinfer.envs import offload
from coinfer.physics import random
from coinfer.policies.learned.placement.load_table import Grid, TablePolicy, decide
from coinfer.policies.learned.placement.placements import fixed_cut
from coinfer.rl.core.batched_optim import interpolate, sample_categorical, uniform
from coinfer.rl.core.envs.placements import PlacementEnv
from coinfer.rl.core.loop import Loop, LoopSettings
from coinfer.rl.core.records import Observation, Transition
from coinfer.rl.core.training import RunOptions, TrainingResult, TrainSettings, settings_record, train_loop
from coinfer.scenario.world import OffloadWorld

_WHETHER, _WHICH = range(2)


@dataclass(frozen=True)
class OnlineRlSettings:
    """Defaults are preset `quick`."""

    worlds: int = 20
    """Worlds of each learner."""
    rounds: int = 3000
    """Slots that each world plays."""
    batch: int = 40
    """Slots sampled for an update; each round makes one update."""
    memory: int = 4000
    """Slots in the replay memory."""
    steps: tuple[float, ...] = (0.1, 0.3, 0.7)
    """Bounds between the four levels of load, ascending, as shares of the threshold."""
    rates_bps: tuple[float, ...] = (30e6, 60e6)
    """Bounds between the levels of a request's mean link rate, ascending."""
    learning_rate: float = 0.1
    gamma: float = 0.99
    """Discount of the next request's value."""
    epsilon: tuple[float, float] = (1.0, 0.01)
    """Share of random choices at first and at last."""
    epsilon_updates: int = 2000
    """Updates over which epsilon changes from the first to the last."""
    running_queues: bool = False
    """Whether loads count the requests decided earlier in the slot."""
    assess_every: int = 250
    """Rounds between two assessments on held-out worlds."""


PAPER = OnlineRlSettings(rounds=500_000, epsilon_updates=300_000, memory=20_000, assess_every=10_000)
PRESETS = {"quick": OnlineRlSettings(), "paper": PAPER}


def with_rounds(settings: OnlineRlSettings, rounds: int) -> OnlineRlSettings:
    """Return settings whose training spans a number of rounds; epsilon falls over the first 60 % of them.

    Args:
        settings: the settings to change, for instance a preset's.
        rounds: slots that each world plays; less than 1 counts as 1.
    """
    rounds = max(1, rounds)
    epsilon_updates = max(1, int(0.6 * rounds))
    return replace(settings, rounds=rounds, epsilon_updates=epsilon_updates, assess_every=max(10, rounds // 20))


class OnlineRl:
    """L tabular learners, one for each seed.

    `values` [L, rows, N + 1] holds a row's value of each server, in the order of their levels, and of rejection.

    Args:
        settings: settings of every learner.
        grid: discretisation of the requests.
        keys: [L] int64 keys of random choices.
    """

    def __init__(self, settings: OnlineRlSettings, grid: Grid, keys: Tensor):
        self.settings, self.grid, self.keys, self.updates = settings, grid, keys, 0
        self.values = torch.zeros((len(keys), grid.rows, grid.servers + 1), device=keys.device)

    @property
    def epsilon(self) -> float:
        """Return the current share of random choices."""
        return interpolate(self.settings.epsilon, self.updates, self.settings.epsilon_updates)

    @torch.no_grad()
    def act(self, observation: Observation, call: int, explore: bool = True) -> Tensor:
        """Return places [L, W, K] int64 of greatest value, replaced by random ones with probability epsilon.

        Args:
            observation: [L, W, ..] the worlds to decide in.
            call: number of this draw; the same call draws the same numbers.
            explore: whether to explore; if false, take the best places.
        """
        best = decide(self.grid, self.values, observation.features, observation.mask, observation.task_mask)
        if not explore:
            return best
        shape = observation.task_mask.shape[1:]
        allowed = sample_categorical(observation.mask.float(), uniform(random.key(self.keys, _WHICH), call, shape))
        return torch.where(uniform(random.key(self.keys, _WHETHER), call, shape) < self.epsilon, allowed, best)

    @torch.no_grad()
    def update(self, batch: Transition) -> dict[str, Tensor]:
        """Update the tables from all requests of a batch.

        Requests of the same row and action change its value by their mean error, weighted as if they had been learned
        one after another.

        Args:
            batch: [L, n, ..] steps with rewards [L, n, K].

        Returns:
            The mean error [L], by name.
        """
        n, task_mask = self.grid.servers, batch.task_mask
        row, order = self.grid.row(
            batch.features[..., 0], self.grid.decision_loads_s(batch.features, batch.action, batch.task_mask)
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
        """Return the learner's state for checkpoints, by name."""
        return {"values": self.values, "updates": torch.tensor(self.updates)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Set the learner's state to a saved one.

        Args:
            tensors: what `tensors` returned, of a learner with the same settings; copied.
        """
        self.values.copy_(tensors["values"])
        self.updates = int(tensors["updates"])


def make_grid(settings: OnlineRlSettings, world: OffloadWorld) -> Grid:
    """Return the discretisation for a world, with bounds between the works that occur there.

    Args:
        settings: steps of load as shares of the greatest finite deadline (1 s if all are infinite), and rates.
        world: the compiled scenario.
    """
    deadlines = torch.as_tensor(world.edge.deadline_s).flatten()
    finite = deadlines[deadlines.isfinite()]
    threshold_s = float(finite.max()) if len(finite) else 1.0
    tables = offload.load(world)
    work_s = torch.where(tables.exists[..., None], tables.server_s, 0.0).amax(1).mean(-1).unique()
    between = ((work_s[1:] * work_s[:-1]).clamp(min=1e-12).sqrt()).tolist()
    loads_s = tuple(step * threshold_s for step in settings.steps)
    return Grid(world.edge.servers, loads_s, settings.rates_bps, tuple(between), settings.running_queues)


def make_loop(
    settings: OnlineRlSettings, world: OffloadWorld, seeds: Tensor, device: str | torch.device = "cpu"
) -> Loop[OnlineRl]:
    """Return the loop that trains L tables, ready for `rl.core.loop.run`.

    Args:
        settings: settings of the learners and the training.
        world: the compiled scenario.
        seeds: [L] int64 seeds.
        device: PyTorch device of tables and worlds.
    """
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
        settings: scenario, seeds, length and preset.
        options: as in `RunOptions`.

    Returns:
        One policy for each seed.

    Raises:
        UserError: if scenario, preset or folder is not valid.
    """
    _, world = settings.open()
    chosen = settings.find_preset(PRESETS)
    if settings.steps is not None:
        chosen = with_rounds(chosen, settings.steps // chosen.worlds)

    def make_policies(learner: OnlineRl) -> tuple[nn.Module, ...]:
        return tuple(TablePolicy(learner.grid, row[None]) for row in learner.values.cpu())

    record = settings_record(settings, "online-rl", world, chosen)
    loop = make_loop(chosen, world, settings.learner_seeds(), settings.device)
    return train_loop("online-rl", loop, make_policies, record, **options)

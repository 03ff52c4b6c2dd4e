"""Online RL: tabular Q-learning for requests that are decided one after another, after Xu et al. (IEEE TPDS 2021, DOI
10.1109/TPDS.2020.3032443), a baseline of CDO-DSAC. Of the published method only the abstract and what CDO-DSAC's paper
says of it are public, so the form is our reading: one central learner; a request's state is its network, how loaded
each server is in a few steps, and how good its link is; its action is a server, or to be rejected, which leaves it to
its device. Reward is minus the latency; the next request's state follows.

Our choices. A load's steps are shares of the threshold, the greatest deadline. Servers are equal in the papers' world,
so the table is over loads in ascending order (equal steps in the order of the servers), which shares what was learned
of one order with all others. A rejected request goes to its device, and costs what it then takes. All
requests of a slot learn when the slot is over, side by side. Loads are those at the slot's beginning, which is the
paper's state (III); with `running` the learner also counts what it has itself sent in this slot, as a central admission
that takes one request after another could.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.envs import core, offload
from coinfer.learners.stacked import uniform
from coinfer.physics import random
from coinfer.policies.offers import Offers, fixed_cut
from coinfer.scenario.world import OffloadWorld
from coinfer.types import OffloadDecision, OffloadObservation, Policy

_WORLDS, _WHETHER, _WHICH = range(3)


@dataclass(frozen=True)
class OnlineRlSettings:
    worlds: int = 20
    """Of each learner."""
    rounds: int = 2000
    steps: tuple[float, ...] = (0.1, 0.3, 0.7)
    """Between two levels of load, as shares of the threshold: four levels."""
    rates_bps: tuple[float, ...] = (30e6, 60e6)
    """Between two levels of the mean link."""
    rate: tuple[float, float] = (0.1, 0.1)
    """Of learning, at first and at last."""
    discount: float = 0.99
    epsilon: tuple[float, float] = (1.0, 0.01)
    epsilon_share: float = 0.6
    """Of the rounds until epsilon is at its last value."""
    running: bool = False
    """Whether loads count what was sent earlier in the slot."""


class Asked(NamedTuple):
    """The requests of a slot, one after another. All [B, K] but `server`."""

    state: Tensor
    """Row of the table."""
    action: Tensor
    """Place in the order of the loads; N rejects."""
    place: Tensor
    """Of `policies.offers`: the server, or N for the device."""


class Table:
    """Q values [L, rows, N + 1] of L learners for one world."""

    def __init__(self, settings: OnlineRlSettings, world: OffloadWorld, learners: int, device: str | torch.device):
        self.settings, self.servers, self.epsilon, self.rounds = settings, world.edge.servers, 0.0, 0
        finite = world.edge.deadline_s[torch.isfinite(torch.as_tensor(world.edge.deadline_s)).numpy()]
        self.threshold_s = float(finite.max()) if finite.size else 1.0
        tables = offload.load(world, device)
        work = torch.where(tables.exists[..., None], tables.server_s, 0.0).amax(1).mean(-1)
        self.sizes = work.unique()
        """[X] work of each kind of request on a server, ascending: what tells networks apart."""
        self.levels, self.rate_levels = len(settings.steps) + 1, len(settings.rates_bps) + 1
        rows = self.levels**self.servers * self.rate_levels * len(self.sizes)
        self.values = torch.zeros((learners, rows, self.servers + 1), device=device)

    def ask(self, seen: OffloadObservation, offers: Offers, explore: tuple[Tensor, Tensor] | None = None) -> Asked:
        """Decides for [B] worlds, those of a learner side by side; `explore` are two draws [B, K]."""
        n, settings = self.servers, self.settings
        worlds, tasks = seen.task_mask.shape
        learner = torch.arange(worlds, device=seen.task_mask.device) // (worlds // self.values.shape[0])
        steps = torch.tensor(settings.steps, device=learner.device) * self.threshold_s
        rates = torch.tensor(settings.rates_bps, device=learner.device)
        weight = self.levels ** torch.arange(n, device=learner.device)
        mean_bps = seen.uplink_bps.mean(-1)
        kind = torch.bucketize(offers.service_s[..., :n].mean(-1) * 0.999, self.sizes).clamp(max=len(self.sizes) - 1)
        base = (kind * self.rate_levels + torch.bucketize(mean_bps, rates)) * self.levels**n
        can = offers.mask.clone()
        can[..., n] = True
        if not settings.running:
            level = torch.bucketize(seen.server_backlog_s, steps)
            order = level.argsort(dim=-1, stable=True)
            row = base + (level.gather(-1, order) * weight).sum(-1)[:, None]
            return self._taken(learner, row, order[:, None].expand(-1, tasks, -1), can, explore)
        load_s, found = seen.server_backlog_s.clone(), []
        last = max(1, int(seen.task_mask.sum(-1).amax()))
        for k in range(last):
            level = torch.bucketize(load_s, steps)
            order = level.argsort(dim=-1, stable=True)
            row = base[:, k] + (level.gather(-1, order) * weight).sum(-1)
            drawn = None if explore is None else (explore[0][:, k : k + 1], explore[1][:, k : k + 1])
            one = self._taken(learner, row[:, None], order[:, None], can[:, k : k + 1], drawn)
            sent = (one.place < n) & seen.task_mask[:, k : k + 1]
            server = one.place.clamp(max=n - 1)
            load_s = load_s.scatter_add(-1, server, offers.service_s[:, k].gather(-1, server) * sent)
            found.append(one)
        found += [found[-1]] * (tasks - last)
        return Asked(*(torch.cat(part, -1) for part in zip(*found, strict=True)))

    def _taken(
        self, learner: Tensor, row: Tensor, order: Tensor, can: Tensor, explore: tuple[Tensor, Tensor] | None
    ) -> Asked:
        """Actions [B, K] for rows [B, K], loads ordered so [B, K, N], places allowed so [B, K, N + 1]."""
        n = self.servers
        can = torch.cat((can[..., :n].gather(-1, order), can[..., n:]), -1)
        action = torch.where(can, self.values[learner[:, None], row], -torch.inf).argmax(-1)
        if explore is not None:
            rank = (explore[1] * can.sum(-1)).long()
            any_ = (can.long().cumsum(-1) > rank[..., None]).int().argmax(-1)
            action = torch.where(explore[0] < self.epsilon, any_, action)
        server = order.gather(-1, action.clamp(max=n - 1)[..., None])[..., 0]
        return Asked(row, action, torch.where(action < n, server, n))

    def learn(self, asked: Asked, reward: Tensor, there: Tensor, after: Asked, rate: float) -> None:
        """Q-learning of a slot's requests: each is followed by the slot's next one, the last by the next slot's first;
        those of one row and action come in by their mean."""
        count, width = self.values.shape[0], self.values.shape[2]
        following = torch.cat((asked.state[:, 1:], after.state[:, :1]), -1)
        last = there & ~torch.nn.functional.pad(there[:, 1:], (0, 1))
        following = torch.where(last, after.state[:, :1], following)
        learner = torch.arange(len(reward), device=reward.device)[:, None] // (len(reward) // count)
        wanted = reward + self.settings.discount * self.values[learner, following].amax(-1)
        place = ((learner * self.values.shape[1] + asked.state) * width + asked.action)[there]
        flat = self.values.view(-1)
        error = (wanted[there] - flat[place]).float()
        unique, which = place.unique(return_inverse=True)
        hits = torch.zeros(len(unique), device=flat.device).index_add_(0, which, torch.ones_like(error))
        total = torch.zeros(len(unique), device=flat.device).index_add_(0, which, error)
        share = 1 - (1 - rate) ** hits
        flat[unique] += share * total / hits

    def policy(self) -> Policy:
        """Without exploring."""

        def decide(seen: OffloadObservation) -> OffloadDecision:
            offers = fixed_cut(seen)
            return offers.decision(self.ask(seen, offers).place)

        return decide


class Curve(NamedTuple):
    round: int
    latency_s: list[float]
    """Of each learner, per task, on held-out worlds without exploring."""
    in_time: list[float]


@torch.no_grad()
def train(
    settings: OnlineRlSettings,
    world: OffloadWorld,
    seeds: Tensor,
    device: str | torch.device = "cpu",
    assess: Callable[[Policy], tuple[list[float], list[float]]] | None = None,
    assess_every: int = 250,
    progress: Callable[[int, Curve | None], None] = lambda *_: None,
    over: Callable[[], bool] = lambda: False,
) -> tuple[Table, list[Curve]]:
    """Trains one learner a seed [S]; `assess` measures a policy of S learners; `over` says when to stop early."""
    keys = random.key(seeds.to(device), 0)
    table = Table(settings, world, len(keys), device)
    tables = offload.load(world, device)
    worlds = random.key(random.key(keys, _WORLDS)[:, None], torch.arange(settings.worlds, device=device)).flatten()
    state, curve = offload.reset(tables, worlds), []
    asked = offers = None
    for number in range(settings.rounds):
        if over():
            break
        table.rounds = number + 1
        done = min(1.0, number / max(1, settings.epsilon_share * settings.rounds))
        table.epsilon = settings.epsilon[0] + (settings.epsilon[1] - settings.epsilon[0]) * done
        rate = settings.rate[0] + (settings.rate[1] - settings.rate[0]) * number / settings.rounds
        if asked is None or offers is None:
            asked, offers = _ask(table, tables, state, keys, settings.worlds, number)
        there = state.draws.task_mask
        stepped = offload.step(tables, state, offers.decision(asked.place), lambda outcome, _: outcome.latency_s)
        after = stepped.state
        after_asked, after_offers = _ask(table, tables, after, keys, settings.worlds, number + 1)
        table.learn(asked, -stepped.reward, there, after_asked, rate)
        state, asked, offers = after, after_asked, after_offers
        if int(state.slot[0]) >= world.edge.slots:
            state, asked = offload.reset(tables, core.next_seeds(state.seed)), None
        point = None
        if assess is not None and (number + 1) % assess_every == 0:
            point = Curve(number + 1, *assess(table.policy()))
            curve.append(point)
        progress(number + 1, point)
    return table, curve


def _ask(
    table: Table, tables: offload.Tables, state: core.State, keys: Tensor, worlds: int, number: int
) -> tuple[Asked, Offers]:
    seen = offload.observe(tables, state)
    offers = fixed_cut(seen)
    shape = (worlds, seen.task_mask.shape[1])
    whether, which = (uniform(random.key(keys, part), number, shape).flatten(0, 1) for part in (_WHETHER, _WHICH))
    return table.ask(seen, offers, (whether, which)), offers

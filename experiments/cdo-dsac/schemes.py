"""The schemes of the figures, each a function from a world to the trained policies of all seeds, and their measure."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from coinfer.envs import offload
from coinfer.evaluate.simulate import episode_seeds
from coinfer.evaluate.statistics import jain
from coinfer.physics import random
from coinfer.policies.heuristics import offload as heuristics
from coinfer.policies.learned.placement_policy import OfferPolicy
from coinfer.policies.learned.placements import fixed_cut
from coinfer.policies.sampling import pick, uniform
from coinfer.rl.algorithms import cdo_dsac, ddpg, online_rl
from coinfer.rl.core import loop as loops
from coinfer.rl.core.placement_env import UNIT_S, OfferGame
from coinfer.rl.core.records import Turn
from coinfer.scenario.world import OffloadWorld
from coinfer.types import OffloadDecision, OffloadObservation, Policy

AGENTS, WORLDS = 5, 10
"""Every scheme learns in ten worlds a seed at once: two for each of CDO-DSAC's five agents."""
JUDGE_WORLDS = 2
JUDGE_SLOTS = 100
"""A whole episode: a server that slowly fills up shows late."""
TUNED = {"memory": 1500, "follow": 0.02}
"""Of all forms of DDPG."""
FLAT = {
    "batch": 64, "softness": 0.3, "updates": 2, "actor_rate": 3e-4, "rates_fall": (0, 1), **TUNED,
}  # fmt: skip


class Budget(NamedTuple):
    rounds: int
    seeds: int
    assess_every: int
    assess_rounds: int
    until_s: float
    """Of `time.monotonic`: training ends then, whatever is left."""
    device: str


class Trained(NamedTuple):
    policy: Policy
    """For S * E worlds, those of a seed side by side."""
    curve: list[dict[str, Any]]
    """On held-out worlds without exploring: rounds so far, and `reward`, `latency_s`, `in_time` of each seed, the mean
    of its agents."""
    rounds: int
    weights: dict[str, torch.Tensor]
    slots_per_s: float
    kept_round: list[int]
    """When each seed's weights were those that are kept."""


class Played(NamedTuple):
    curve: list[dict[str, Any]]
    weights: torch.Tensor
    """[S, ..] those of the greatest return on the held-out worlds, of all agents and assessments."""
    kept_round: list[int]
    slots_per_s: float


Scheme = Callable[[OffloadWorld, Budget], Trained]


def cdo(**changes: Any) -> Scheme:
    def train(world: OffloadWorld, budget: Budget) -> Trained:
        settings = cdo_dsac.preset("quick", agents=AGENTS, worlds=WORLDS // AGENTS, **changes)
        settings = cdo_dsac.with_rounds(settings, budget.rounds)
        loop = cdo_dsac.loop_of(settings, world, torch.arange(budget.seeds), budget.device)
        sac = loop.learner.sac
        played = _play(loop, world, budget, lambda: sac.actor_flat.detach())
        features, offers = cdo_dsac.features_of(settings), cdo_dsac.offers_of(settings)
        return _trained(OfferPolicy(sac.actor, played.weights, features, offers), loop, played)

    return train


def deterministic(**changes: Any) -> Scheme:
    def train(world: OffloadWorld, budget: Budget) -> Trained:
        settings = ddpg.with_rounds(replace(ddpg.DdpgSettings(), worlds=WORLDS, **changes), budget.rounds)
        loop = ddpg.loop_of(settings, world, torch.arange(budget.seeds), budget.device)
        played = _play(loop, world, budget, lambda: loop.learner.actor_flat.detach())
        return _trained(
            OfferPolicy(loop.learner.actor, played.weights, ddpg.features_of(settings), ddpg.offers_of(settings)),
            loop,
            played,
        )

    return train


def tabular(**changes: Any) -> Scheme:
    def train(world: OffloadWorld, budget: Budget) -> Trained:
        settings = replace(online_rl.OnlineRlSettings(), worlds=WORLDS, batch=2 * WORLDS, **changes)
        settings = online_rl.with_rounds(settings, budget.rounds)
        loop = online_rl.loop_of(settings, world, torch.arange(budget.seeds), budget.device)
        played = _play(loop, world, budget, lambda: loop.learner.values)
        return _trained(online_rl.TablePolicy(loop.learner.grid, played.weights), loop, played)

    return train


def _trained(policy: Policy, loop: loops.Loop, played: Played) -> Trained:
    weights = {"actor": played.weights.cpu()} if isinstance(policy, OfferPolicy) else {}
    return Trained(policy, played.curve, loop.round, weights, played.slots_per_s, played.kept_round)


class Plain:
    """The worlds that judge the learners (`rl.core.records.Game`), for policies that take whole observations."""

    def __init__(self, world: OffloadWorld, device: str):
        self.tables = offload.load(world, device)

    def start(self, seeds: torch.Tensor) -> tuple[Any, Any]:
        worlds = random.key(seeds[:, None], torch.arange(JUDGE_WORLDS, device=seeds.device))
        state = offload.reset(self.tables, worlds.flatten())
        return state, offload.observe(self.tables, state)

    def step(self, state: Any, decision: OffloadDecision) -> Turn:
        stepped = offload.step(self.tables, state, decision, lambda outcome, _: outcome.latency_s)
        there, outcome = state.draws.task_mask, stepped.outcome
        latency_s = outcome.latency_s.sum(-1)[None]
        told = {
            "tasks": there.sum(-1)[None],
            "latency_s": latency_s,
            "in_time": (outcome.in_time & there).sum(-1)[None],
        }
        view: Any = offload.observe(self.tables, stepped.state)
        never = torch.zeros_like(latency_s)
        return Turn(stepped.state, view, view, -latency_s / UNIT_S, never, never, told)


class Fixed:
    """A policy that does not learn, as one learner."""

    def __init__(self, policy: Policy, device: str):
        self.policy, self.keys = policy, torch.zeros(1, dtype=torch.int64, device=device)

    def act(self, view: Any, call: int, explore: bool = True) -> Any:
        return self.policy(view)


def named(policy: Callable[[int], Policy]) -> Scheme:
    def judge(world: OffloadWorld, budget: Budget) -> Trained:
        game: Any = Plain(world, budget.device)
        learner: Any = Fixed(policy(0), budget.device)
        found = loops.assess(game, learner, budget.assess_rounds)
        told = {name: [round(float(part[0]), 5)] * budget.seeds for name, part in found.items()}
        return Trained(policy(0), [{"round": 0, **told}], 0, {}, 0.0, [])

    return judge


def random_server(seed: int = 0) -> Policy:
    """Random of the paper: any server, each as likely, with CDLP's cut."""
    calls = [0]

    def decide(seen: OffloadObservation) -> OffloadDecision:
        found = fixed_cut(seen)
        calls[0] += 1
        return found.decision(pick(found.mask, uniform(seed, calls[0], found.mask.shape[:-1], found.mask.device)))

    return decide


SCHEMES: dict[str, Scheme] = {
    "cdo-dsac": cdo(),
    "cdo-dsac-seen": cdo(running=False),
    "cdo-dsac-flat": cdo(form="flat", hidden=(256, 512, 256)),
    "cdo-dsac-ranked": cdo(form="ranked", hidden=(256, 512, 256)),
    "ddpg": deterministic(form="ranked", hidden=(64, 32), discount=0.5, noise=(0.5, 0.1), **FLAT),
    "ddpg-flat": deterministic(hidden=(256, 512, 256), discount=0.3, **FLAT),
    "ddpg-running": deterministic(
        form="places",
        hidden=(32, 32),
        batch=32,
        critic_rate=3e-3,
        actor_rate=1e-3,
        discount=0.8,
        softness=0.3,
        rates_fall=(0, 1),
        **TUNED,
    ),
    "online-rl": tabular(),
    "online-rl-running": tabular(running=True),
    "greedy": named(heuristics.greedy),
    "random": named(random_server),
    "two-choices": named(heuristics.two_choices),
    "sequential-greedy": named(heuristics.sequential_greedy),
}


def _play(loop: loops.Loop, world: OffloadWorld, budget: Budget, weights: Callable[[], torch.Tensor]) -> Played:
    """Trains, and judges everybody now and then in worlds that are the same for all learners of all schemes; the first
    time before anything was learned."""
    loop.settings = replace(loop.settings, assess_every=0, assess_rounds=1)
    own: Any = loop.game
    judge = OfferGame(world, JUDGE_WORLDS, own.features, own.offers, budget.device)
    count, seeds = len(loop.keys), budget.seeds
    curve, took_s = [], 0.0
    kept, best = weights()[:: count // seeds].clone(), torch.full((seeds,), -torch.inf, dtype=torch.float64)
    kept_round = [0] * seeds
    while True:
        if loop.round % budget.assess_every == 0 or loop.round == budget.rounds:
            found = {n: part.cpu() for n, part in loops.assess(judge, loop.learner, budget.assess_rounds).items()}
            by_seed = {name: part.unflatten(0, (seeds, -1)) for name, part in found.items()}
            told = {name: [round(v, 5) for v in part.mean(1).tolist()] for name, part in by_seed.items()}
            curve.append({"round": loop.round, **told})
            reward, agent = by_seed["reward"].max(1)
            for seed in (reward > best).nonzero()[:, 0].tolist():
                kept[seed] = weights()[seed * (count // seeds) + int(agent[seed])]
                best[seed], kept_round[seed] = reward[seed], loop.round
        if loop.round == budget.rounds or time.monotonic() >= budget.until_s:
            break
        began_s = time.process_time()
        loop.play()
        took_s += time.process_time() - began_s
    return Played(curve, kept, kept_round, loop.round * count * loop.view.there.shape[1] / max(took_s, 1e-9))


@torch.no_grad()
def measure(
    world: OffloadWorld, policy: Policy, seeds: int, episodes: int, device: str
) -> dict[str, dict[str, list[float]]]:
    """`latency_s`, `in_time`, `refused` of every network by its number, and of all, there with `balance` unless nothing
    was sent to servers; one value a seed."""
    tables = offload.load(world, device)
    state = offload.reset(tables, episode_seeds(seeds, episodes))
    models = world.edge.models
    sums = torch.zeros((4, models, seeds * episodes), dtype=torch.float64, device=device)
    work = torch.zeros((seeds * episodes, world.edge.servers), dtype=torch.float64, device=device)
    for _ in range(world.edge.slots):
        decision = policy(offload.observe(tables, state))
        stepped = offload.step(tables, state, decision, lambda outcome, _: outcome.latency_s)
        there, outcome = state.draws.task_mask, stepped.outcome
        parts = (there, outcome.latency_s, outcome.in_time & there, stepped.info.refused)
        for model in range(models):
            mine = there & (state.draws.model == model)
            sums[:, model] += torch.stack([(part * mine).sum(-1).double() for part in parts])
        work += stepped.info.server_work_s
        state = stepped.state
    names = ("latency_s", "in_time", "refused")

    def shares(part: torch.Tensor) -> dict[str, list[float]]:
        count, *rest = part.unflatten(-1, (seeds, episodes)).sum(-1)
        return {name: (values / count).tolist() for name, values in zip(names, rest, strict=True)}

    found = {str(model): shares(sums[:, model]) for model in range(models)}
    of_all = shares(sums.sum(1))
    if bool((work.sum(-1) > 0).all()):
        of_all["balance"] = jain(work.cpu().numpy().reshape(seeds, episodes, -1)).mean(1).tolist()
    return {"all": of_all, **found}

"""The schemes of the figures, each a function from a world to the trained policies of all seeds, and their measure."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from coinfer.envs import offload
from coinfer.evaluate.simulate import episode_seeds
from coinfer.evaluate.statistics import jain
from coinfer.learners import cdo_dsac, ddpg, online_rl
from coinfer.learners import loop as loops
from coinfer.policies import heuristics
from coinfer.policies.draws import pick, uniform
from coinfer.policies.offer_policy import OfferPolicy
from coinfer.policies.offers import fixed_cut
from coinfer.scenario.world import OffloadWorld
from coinfer.types import OffloadDecision, OffloadObservation, Policy

AGENTS, WORLDS = 5, 10
"""Every scheme learns in ten worlds a seed at once: two for each of CDO-DSAC's five agents."""
PATIENCE = 4
"""The baselines play so many times as many slots."""
SMALL = {"batch": 16, "memory": 1500, "hidden": (32, 32), "every": 2, "broadcast_every": 40, "judge_rounds": 20}
"""What lets ten seeds of CDO-DSAC train on one core in a minute or two."""


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
    """On held-out worlds without exploring: rounds so far, and `latency_s`, `in_time` of each learner."""
    rounds: int
    weights: dict[str, torch.Tensor]
    slots_per_s: float


Scheme = Callable[[OffloadWorld, Budget], Trained]


def cdo(**changes: Any) -> Scheme:
    def train(world: OffloadWorld, budget: Budget) -> Trained:
        worlds = WORLDS // AGENTS
        own = {**SMALL, **changes}
        settings = cdo_dsac.preset("quick", agents=AGENTS, worlds=worlds, rounds=budget.rounds, **own)
        updates = budget.rounds // settings.every
        sac = replace(settings.sac, entropy_updates=max(1, int(0.6 * updates)))
        settings = replace(settings, sac=sac, assess_every=budget.assess_every)
        loop = cdo_dsac.loop_of(settings, world, torch.arange(budget.seeds), budget.device)
        rate = _play(loop, budget)
        sac = loop.learner.sac
        chosen = cdo_dsac.best_agents(loop.learner)
        flat = sac.actor_flat.detach()[chosen]
        policy = OfferPolicy(sac.actor, flat, cdo_dsac.features_of(settings), cdo_dsac.offers_of(settings))
        return Trained(policy, _curve(loop), loop.round, {"actor": flat.cpu()}, rate)

    return train


def deterministic(**changes: Any) -> Scheme:
    def train(world: OffloadWorld, budget: Budget) -> Trained:
        budget = budget._replace(rounds=PATIENCE * budget.rounds)
        settings = replace(
            ddpg.DdpgSettings(), worlds=WORLDS, rounds=budget.rounds, assess_every=2 * budget.assess_every,
            noise_updates=int(0.6 * budget.rounds), **changes,
        )  # fmt: skip
        loop = ddpg.loop_of(settings, world, torch.arange(budget.seeds), budget.device)
        rate = _play(loop, budget)
        flat = loop.learner.actor_flat.detach()
        policy = OfferPolicy(loop.learner.actor, flat, ddpg.features_of(settings), fixed_cut)
        return Trained(policy, _curve(loop), loop.round, {}, rate)

    return train


def tabular(**changes: Any) -> Scheme:
    def train(world: OffloadWorld, budget: Budget) -> Trained:
        budget = budget._replace(rounds=PATIENCE * budget.rounds)
        settings = replace(
            online_rl.OnlineRlSettings(), worlds=WORLDS, rounds=budget.rounds, batch=2 * WORLDS,
            epsilon_updates=int(0.6 * budget.rounds), assess_every=2 * budget.assess_every, **changes,
        )  # fmt: skip
        loop = online_rl.loop_of(settings, world, torch.arange(budget.seeds), budget.device)
        rate = _play(loop, budget)
        policy = online_rl.TablePolicy(loop.learner.grid, loop.learner.values)
        return Trained(policy, _curve(loop), loop.round, {}, rate)

    return train


def named(policy: Callable[[int], Policy]) -> Scheme:
    return lambda world, budget: Trained(policy(0), [], 0, {}, 0.0)


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
    "ddpg": deterministic(hidden=(64, 32), batch=64, actor_rate=1e-3, discount=0.5),
    "ddpg-running": deterministic(form="places", hidden=(32, 32), batch=32, actor_rate=3e-4),
    "online-rl": tabular(),
    "online-rl-running": tabular(running=True),
    "greedy": named(heuristics.greedy),
    "random": named(random_server),
    "two-choices": named(heuristics.two_choices),
    "sequential-greedy": named(heuristics.sequential_greedy),
}


def _play(loop: loops.Loop, budget: Budget) -> float:
    """Slots a second."""
    loop.settings = replace(loop.settings, assess_rounds=budget.assess_rounds)
    began_s = time.monotonic()
    while loop.round < budget.rounds and time.monotonic() < budget.until_s:
        loop.play()
    return loop.round * loop.view.there.shape[0] * loop.view.there.shape[1] / (time.monotonic() - began_s)


def _curve(loop: loops.Loop) -> list[dict[str, Any]]:
    rounded = [{name: [round(v, 5) for v in values] for name, values in p.figures.items()} for p in loop.assessed]
    return [{"round": p.round, **kept} for p, kept in zip(loop.assessed, rounded, strict=True)]


@torch.no_grad()
def measure(
    world: OffloadWorld, policy: Policy, seeds: int, episodes: int, device: str
) -> dict[str, dict[str, list[float]]]:
    """`latency_s`, `in_time`, `refused` of every network by its number, and of all with `balance`; one value a seed."""
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
    balance = jain(work.cpu().numpy().reshape(seeds, episodes, -1))
    return {"all": {**shares(sums.sum(1)), "balance": np.nanmean(balance, 1).tolist()}, **found}

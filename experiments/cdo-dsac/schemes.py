"""The schemes of the figures, each a function from a world to the trained policies of all seeds, and their measure.

Budgets are slots. A seed's training has the same number for every scheme, and what the updater of CDO-DSAC plays to
judge its agents is part of it. What each seed keeps is the best of `CANDIDATES` networks by the same judging, for
every scheme, and also where nothing is learned (`untrained`).
"""

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
from coinfer.policies.learned.nets import Net
from coinfer.policies.learned.placement.load_table import Grid, TablePolicy
from coinfer.policies.learned.placement.placements import fixed_cut
from coinfer.policies.learned.placement.policy import MakeFeatures, MakePlacements, PlacementPolicy
from coinfer.policies.sampling import pick, uniform
from coinfer.rl.algorithms import cdo_dsac, ddpg, online_rl
from coinfer.rl.core import loop as loops
from coinfer.rl.core.batched_optim import uniform as keyed
from coinfer.rl.core.envs.placements import UNIT_S, PlacementEnv
from coinfer.rl.core.records import Observation, StepResult, Transition
from coinfer.scenario.world import OffloadWorld
from coinfer.types import OffloadDecision, OffloadObservation, Policy

AGENTS, WORLDS = 5, 10
"""Every scheme learns in ten worlds a seed at once: two for each of CDO-DSAC's five agents."""
JUDGE_WORLDS = 2
JUDGE_SLOTS = 100
"""A whole episode: a server that slowly fills up shows late."""
CANDIDATES = 21
"""Networks that each seed keeps the best of: one before anything was learned, the others evenly over the training."""
TUNED = {"memory": 1500, "tau": 0.02}
"""Of all forms of DDPG."""
FLAT = {
    "batch": 64,
    "softmax_temperature": 0.3,
    "updates": 2,
    "actor_learning_rate": 3e-4,
    "learning_rate_decay": (0, 1),
    **TUNED,
}


class Budget(NamedTuple):
    slots: int
    """That a seed may play to learn, with those that the updater plays to judge its agents."""
    seeds: int
    judge_slots: int
    """Of each world, to judge one candidate."""
    until_s: float
    """Of `time.monotonic`: training ends then, whatever is left."""
    device: str


class Trained(NamedTuple):
    policy: Callable[[], Policy]
    """A new one for S * E worlds, those of a seed side by side; what one plays leaves no trace in the next."""
    curve: list[dict[str, Any]]
    """Of the candidates, on held-out worlds without exploring: slots so far, and `reward`, `latency_s`, `in_time` of
    each seed."""
    played: dict[str, int]
    """Slots of a seed: `learning`, `updater` (to judge the agents), `choosing` (to judge the candidates)."""
    weights: dict[str, torch.Tensor]
    slots_per_s: float
    kept: list[int]
    """Which candidate each seed's weights were, 0 being that of before any learning."""


class Played(NamedTuple):
    curve: list[dict[str, Any]]
    weights: torch.Tensor
    """[S, ..] those of the greatest return on the held-out worlds, of all candidates."""
    kept: list[int]
    slots_per_s: float


Scheme = Callable[[OffloadWorld, Budget], Trained]
Actor = tuple[Net, MakeFeatures, MakePlacements]


def updater_slots(settings: cdo_dsac.CdoSettings, rounds: int) -> int:
    """What a seed's updater plays in so many rounds."""
    if not settings.broadcast_every:
        return 0
    updates = rounds // settings.update_every - settings.warmup // settings.update_every
    judged = settings.agents * settings.judge_worlds * settings.judge_rounds
    return max(0, updates) // settings.broadcast_every * judged


def rounds_within(settings: cdo_dsac.CdoSettings, slots: int) -> int:
    """The most rounds whose slots, the updater's among them, are no more than these."""
    rounds = slots // WORLDS
    while rounds > 1 and rounds * WORLDS + updater_slots(settings, rounds) > slots:
        rounds -= 1
    return rounds


def cdo(agents: int = AGENTS, sharing: bool = True, **changes: Any) -> Scheme:
    """CDO-DSAC.

    Args:
        sharing: without it every agent learns from what it played itself, and remembers its part of the slots, so that
            what is remembered is as old.
    """

    def train(world: OffloadWorld, budget: Budget) -> Trained:
        settings = replace(cdo_dsac.PRESETS["quick"], agents=agents, worlds=WORLDS // agents, **changes)
        settings = cdo_dsac.with_rounds(settings, rounds_within(settings, budget.slots))
        loop = cdo_dsac.make_loop(settings, world, torch.arange(budget.seeds), budget.device)
        if not sharing:
            loop.settings = replace(loop.settings, capacity=settings.memory // agents)
            loop.share, loop.ring = _its_own, None
        sac = loop.learner.sac
        played = _play(
            loop,
            world,
            budget,
            lambda: sac.actor_flat.detach(),
            lambda agent: Greatest(sac.actor, sac.actor_flat.detach()[agent::agents], loop.keys[agent::agents]),
            lambda rounds: updater_slots(settings, rounds),
        )
        actor = sac.actor, cdo_dsac.features_of(settings), cdo_dsac.placements_of(settings)
        return _trained(actor, played, budget, _slots(loop.round, updater_slots(settings, loop.round), budget))

    return train


def _its_own(step: Transition) -> Transition:
    return step


def deterministic(**changes: Any) -> Scheme:
    def train(world: OffloadWorld, budget: Budget) -> Trained:
        settings = replace(ddpg.DdpgSettings(), worlds=WORLDS, **changes)
        settings = ddpg.with_rounds(settings, budget.slots // WORLDS)
        loop = ddpg.make_loop(settings, world, torch.arange(budget.seeds), budget.device)
        played = _play(loop, world, budget, lambda: loop.learner.actor_flat.detach())
        actor = loop.learner.actor, ddpg.features_of(settings), ddpg.placements_of(settings)
        return _trained(actor, played, budget, _slots(loop.round, 0, budget))

    return train


def tabular(**changes: Any) -> Scheme:
    def train(world: OffloadWorld, budget: Budget) -> Trained:
        settings = replace(online_rl.OnlineRlSettings(), worlds=WORLDS, batch=2 * WORLDS, **changes)
        settings = online_rl.with_rounds(settings, budget.slots // WORLDS)
        loop = online_rl.make_loop(settings, world, torch.arange(budget.seeds), budget.device)
        played = _play(loop, world, budget, lambda: loop.learner.values)
        return _table(loop.learner.grid, played, budget, _slots(loop.round, 0, budget))

    return train


def untrained(make: Callable[[OffloadWorld], Actor]) -> Scheme:
    """The best of random networks, by the judging that the trained ones are kept by; the first of a seed is the one
    that its first agent would begin with."""

    def judge(world: OffloadWorld, budget: Budget) -> Trained:
        actor = make(world)
        net, features, placements = actor
        keys = _candidates(budget)
        flat = net.initial(random.key(keys, 0))
        env = PlacementEnv(world, JUDGE_WORLDS, features, placements, budget.device)
        return _trained(actor, _best(env, Greatest(net, flat, keys), flat, budget), budget, _slots(0, 0, budget))

    return judge


def untrained_table(**changes: Any) -> Scheme:
    """The best of tables of random numbers."""

    def judge(world: OffloadWorld, budget: Budget) -> Trained:
        keys, settings = _candidates(budget), replace(online_rl.OnlineRlSettings(), **changes)
        learner = online_rl.OnlineRl(settings, online_rl.make_grid(settings, world), keys)
        learner.values = keyed(keys, 0, learner.values.shape[1:])
        env = PlacementEnv(world, JUDGE_WORLDS, learner.grid.features, fixed_cut, budget.device)
        return _table(learner.grid, _best(env, learner, learner.values, budget), budget, _slots(0, 0, budget))

    return judge


class Greatest:
    """Networks of which each task takes the place of the greatest number, as learners that only act."""

    def __init__(self, net: Net, flat: torch.Tensor, keys: torch.Tensor):
        self.net, self.flat, self.keys = net, flat, keys

    @torch.no_grad()
    def act(self, observation: Observation, call: int, explore: bool = True) -> torch.Tensor:
        return torch.where(observation.mask, self.net(self.flat, observation.features), -torch.inf).argmax(-1)


def _candidates(budget: Budget) -> torch.Tensor:
    """[S * CANDIDATES] keys, those of a seed side by side."""
    seeds = torch.arange(budget.seeds, device=budget.device)
    return random.key(seeds[:, None], torch.arange(CANDIDATES, device=budget.device)).flatten()


def _best(env: PlacementEnv, learner: Any, weights: torch.Tensor, budget: Budget) -> Played:
    """Each seed's best of its random ones, which is the curve's only point."""
    found = {n: part.cpu() for n, part in loops.assess(env, learner, budget.judge_slots).items()}
    by_seed = {name: part.unflatten(0, (budget.seeds, -1)) for name, part in found.items()}
    best = by_seed["reward"].argmax(1)
    seeds = torch.arange(budget.seeds)
    metrics = {name: [round(v, 5) for v in part[seeds, best].tolist()] for name, part in by_seed.items()}
    kept = weights.unflatten(0, (budget.seeds, -1))[seeds, best]
    return Played([{"slots": 0, **metrics}], kept, best.tolist(), 0.0)


def _slots(rounds: int, updater: int, budget: Budget) -> dict[str, int]:
    choosing = CANDIDATES * JUDGE_WORLDS * budget.judge_slots
    return {"learning": rounds * WORLDS, "updater": updater, "choosing": choosing}


def _trained(actor: Actor, played: Played, budget: Budget, slots: dict[str, int]) -> Trained:
    net, features, placements = actor

    def policy() -> Policy:
        return PlacementPolicy(net, played.weights, features, placements)

    return Trained(policy, played.curve, slots, {"actor": played.weights.cpu()}, played.slots_per_s, played.kept)


def _table(grid: Grid, played: Played, budget: Budget, slots: dict[str, int]) -> Trained:
    return Trained(lambda: TablePolicy(grid, played.weights), played.curve, slots, {}, played.slots_per_s, played.kept)


class Plain:
    """The worlds that judge the learners (`rl.core.records.Env`), for policies that take whole observations."""

    def __init__(self, world: OffloadWorld, device: str):
        self.tables = offload.load(world, device)

    def reset(self, seeds: torch.Tensor) -> tuple[Any, Any]:
        worlds = random.key(seeds[:, None], torch.arange(JUDGE_WORLDS, device=seeds.device))
        state = offload.reset(self.tables, worlds.flatten())
        return state, offload.observe(self.tables, state)

    def step(self, state: Any, decision: OffloadDecision) -> StepResult:
        stepped = offload.step(self.tables, state, decision, lambda outcome, _: outcome.latency_s)
        task_mask, outcome = state.draws.task_mask, stepped.outcome
        latency_s = outcome.latency_s.sum(-1)[None]
        metrics = {
            "tasks": task_mask.sum(-1)[None],
            "latency_s": latency_s,
            "in_time": (outcome.in_time & task_mask).sum(-1)[None],
        }
        observation: Any = offload.observe(self.tables, stepped.state)
        never = torch.zeros_like(latency_s)
        return StepResult(stepped.state, observation, observation, -latency_s / UNIT_S, never, never, metrics)


class Fixed:
    """A policy that does not learn, as one learner."""

    def __init__(self, policy: Policy, device: str):
        self.policy, self.keys = policy, torch.zeros(1, dtype=torch.int64, device=device)

    def act(self, observation: Any, call: int, explore: bool = True) -> Any:
        return self.policy(observation)


def named(policy: Callable[[int], Policy]) -> Scheme:
    def judge(world: OffloadWorld, budget: Budget) -> Trained:
        env: Any = Plain(world, budget.device)
        learner: Any = Fixed(policy(0), budget.device)
        found = loops.assess(env, learner, budget.judge_slots)
        metrics = {name: [round(float(part[0]), 5)] * budget.seeds for name, part in found.items()}
        return Trained(lambda: policy(0), [{"slots": 0, **metrics}], {}, {}, 0.0, [])

    return judge


def random_server(seed: int = 0) -> Policy:
    """Random of the paper: any server, each as likely, with CDLP's cut. What it draws follows from seed, slot and
    world, counted from its making."""
    calls = [0]

    def decide(seen: OffloadObservation) -> OffloadDecision:
        found = fixed_cut(seen)
        calls[0] += 1
        return found.decision(pick(found.mask, uniform(seed, calls[0], found.mask.shape[:-1], found.mask.device)))

    return decide


def actor_of(**changes: Any) -> Callable[[OffloadWorld], Actor]:
    """The actor of CDO-DSAC's agents, with these changes of their settings, and what it is told and chooses from."""
    settings = replace(cdo_dsac.PRESETS["quick"], **changes)
    return lambda world: (
        cdo_dsac.make_net(settings, world, last_gain=0.1),
        cdo_dsac.features_of(settings),
        cdo_dsac.placements_of(settings),
    )


WIDE = (256, 512, 256)
"""Widths of the paper's network."""
SCHEMES: dict[str, Scheme] = {
    "cdo-dsac": cdo(),
    "cdo-dsac-one": cdo(agents=1, broadcast_every=0),
    "cdo-dsac-one-batch": cdo(agents=1, broadcast_every=0, batch=80),
    "cdo-dsac-apart": cdo(sharing=False),
    "cdo-dsac-silent": cdo(broadcast_every=0),
    "cdo-dsac-alone": cdo(sharing=False, broadcast_every=0),
    "cdo-dsac-omega-10": cdo(broadcast_every=10),
    "cdo-dsac-omega-25": cdo(broadcast_every=25),
    "cdo-dsac-omega-100": cdo(broadcast_every=100),
    "cdo-dsac-omega-200": cdo(broadcast_every=200),
    "untrained": untrained(actor_of()),
    "cdo-dsac-seen": cdo(running_queues=False),
    "untrained-seen": untrained(actor_of(running_queues=False)),
    "cdo-dsac-flat": cdo(form="flat", hidden=WIDE),
    "untrained-flat": untrained(actor_of(form="flat", hidden=WIDE)),
    "cdo-dsac-ranked": cdo(form="ranked", hidden=WIDE),
    "untrained-ranked": untrained(actor_of(form="ranked", hidden=WIDE)),
    "ddpg": deterministic(form="ranked", hidden=(64, 32), gamma=0.5, noise=(0.5, 0.1), **FLAT),
    "untrained-ddpg": untrained(actor_of(form="ranked", hidden=(64, 32))),
    "ddpg-flat": deterministic(hidden=WIDE, gamma=0.3, **FLAT),
    "ddpg-running": deterministic(
        form="places",
        hidden=(32, 32),
        batch=32,
        critic_learning_rate=3e-3,
        actor_learning_rate=1e-3,
        gamma=0.8,
        softmax_temperature=0.3,
        learning_rate_decay=(0, 1),
        **TUNED,
    ),
    "online-rl": tabular(),
    "untrained-table": untrained_table(),
    "online-rl-running": tabular(running_queues=True),
    "untrained-table-running": untrained_table(running_queues=True),
    "greedy": named(heuristics.greedy),
    "random": named(random_server),
    "two-choices": named(heuristics.two_choices),
    "sequential-greedy": named(heuristics.sequential_greedy),
}


def _play(
    loop: loops.Loop,
    world: OffloadWorld,
    budget: Budget,
    weights: Callable[[], torch.Tensor],
    agent_of: Callable[[int], Any] | None = None,
    updater: Callable[[int], int] = lambda rounds: 0,
) -> Played:
    """Trains, and judges now and then in worlds that are the same for all learners of all schemes; the first time
    before anything was learned. Each judgement is of one candidate of each seed: where there are several agents, they
    take turns.

    Args:
        agent_of: from the number of an agent to these agents of all seeds, as one learner; None where there is one.
        updater: slots that the updater has played after so many rounds.
    """
    rounds = loop.settings.rounds
    loop.settings = replace(loop.settings, assess_every=0, assess_rounds=1)
    own: Any = loop.env
    judge = PlacementEnv(world, JUDGE_WORLDS, own.features, own.placements, budget.device)
    count, seeds = len(loop.keys), budget.seeds
    agents = count // seeds
    moments = [round(part * rounds / (CANDIDATES - 1)) for part in range(CANDIDATES)]
    curve, took_s = [], 0.0
    best = torch.full((seeds,), -torch.inf, dtype=torch.float64)
    kept, which = weights()[::agents].clone(), [0] * seeds
    for number, moment in enumerate(moments):
        while loop.round < moment and time.monotonic() < budget.until_s:
            began_s = time.process_time()
            loop.play()
            took_s += time.process_time() - began_s
        agent = number % agents
        learner = agent_of(agent) if agent_of else loop.learner
        found = {n: part.cpu() for n, part in loops.assess(judge, learner, budget.judge_slots).items()}
        metrics = {name: [round(v, 5) for v in part.tolist()] for name, part in found.items()}
        curve.append({"slots": loop.round * WORLDS + updater(loop.round), **metrics})
        for seed in (found["reward"] > best).nonzero()[:, 0].tolist():
            kept[seed] = weights()[seed * agents + agent]
            best[seed], which[seed] = found["reward"][seed], number
        if loop.round < moment:
            break
    return Played(curve, kept, which, loop.round * count * loop.observation.task_mask.shape[1] / max(took_s, 1e-9))


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
        task_mask, outcome = state.draws.task_mask, stepped.outcome
        parts = (task_mask, outcome.latency_s, outcome.in_time & task_mask, stepped.info.refused)
        for model in range(models):
            mine = task_mask & (state.draws.model == model)
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

"""Trains `policies.scorer` by evolution strategies, from sequential greedy (with insertion) on.

Salimans et al. 2017 (arXiv:1703.03864), with mirrored pairs, centred ranks and Adam. A generation plays whole episodes
with 2 * pairs disturbed copies of the weights, all of them and all worlds in one batch. All copies meet the same chance
(common random numbers), so what differs between them is the weights' doing; that, and few weights (`scorer.SIZE`), is
why so plain a method does well here, where the price of an action shows many slots later. Nothing is asked of the
environment but to run it, with decisions that are made one after another within a slot.

What is made small is the mean over the cases (scenarios, loads, ages of what is known) of

    mean latency / that of sequential greedy  +  late_weight * share of late tasks

A generation plays `cases_at_once` of the cases, drawn in turns, and takes the ranks within each.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from coinfer.evaluate import simulate
from coinfer.learners.played import Player
from coinfer.physics import random
from coinfer.policies import scorer
from coinfer.scenario.compile import open_world
from coinfer.scenario.world import OffloadWorld

_CHANCE = 1
_SLOW, _FAST = 0.1, 0.02
"""Parts of Adam's moments that are new in each generation."""
Progress = Callable[["Training", dict[str, float]], None]
"""Is told where training is and what the last generation saw."""


class Case(NamedTuple):
    """A scenario with changed keys that the policy is trained for."""

    scenario: str
    changes: Mapping[str, Any]
    worlds: int = 8
    """Episodes that each copy plays in a generation."""

    def world(self) -> OffloadWorld:
        """Compiled."""
        world: Any = open_world(self.scenario, dict(self.changes)).world
        return world


@dataclass(frozen=True)
class Settings:
    cases: tuple[Case, ...]
    pairs: int = 64
    slots: int = 60
    """Of an episode."""
    cases_at_once: int = 4
    generations: int = 300
    most_s: float = math.inf
    """Training ends after this time even where generations are left."""
    spread: float = 0.05
    """Standard deviation of the disturbance."""
    rate: float = 0.03
    """Adam's, going down to a tenth in a half cosine."""
    late_weight: float = 2.0
    insertion: bool = True
    seed: int = 0
    device: str = "cpu"
    start: tuple[float, ...] = field(default=(), repr=False)
    """Weights to go on from; without any, those of sequential greedy."""


class Training(NamedTuple):
    """All there is to go on from."""

    weights: Tensor
    """[SIZE]"""
    first: Tensor
    """[SIZE] Adam's moments."""
    second: Tensor
    generation: int
    part: float
    """Of the training that is done, by generations or by time."""


def begin(settings: Settings) -> Training:
    """Before the first generation."""
    weights = torch.tensor(settings.start) if settings.start else scorer.first_weights(settings.seed)
    weights = weights.to(settings.device)
    return Training(weights, torch.zeros_like(weights), torch.zeros_like(weights), 0, 0.0)


def train(settings: Settings, training: Training | None = None, progress: Progress = lambda *_: None) -> Training:
    """All generations."""
    training = training or begin(settings)
    players = [_player(settings, case) for case in settings.cases]
    usual = [_usual(settings, case) for case in settings.cases]
    began_s = time.perf_counter()
    while training.part < 1:
        training, seen = step(settings, players, usual, training)
        took_s = time.perf_counter() - began_s
        training = training._replace(
            part=min(1.0, max(training.generation / settings.generations, took_s / settings.most_s))
        )
        progress(training, {**seen, "took_s": took_s})
    return training


@torch.no_grad()
def step(
    settings: Settings, players: list[Player], usual: list[tuple[float, float]], training: Training
) -> tuple[Training, dict[str, float]]:
    """One generation, given a player of each case, and what sequential greedy comes to there."""
    noise = _noise(settings, training.generation)
    weights = training.weights
    copies = torch.cat((weights + noise, weights - noise, weights[None]))
    chosen = _chosen(settings, training.generation)
    for number in chosen:
        players[number].start(copies, _seeds(settings, training.generation, number))
    found = [players[number].result() for number in chosen]
    utility = torch.zeros(settings.pairs, device=noise.device)
    for number, (latency_s, late) in zip(chosen, found, strict=True):
        loss = latency_s / usual[number][0] + settings.late_weight * late
        ranks = loss[:-1].argsort().argsort().to(noise.dtype) / (2 * settings.pairs - 1) - 0.5
        utility += ranks[: settings.pairs] - ranks[settings.pairs :]
    slope = utility @ noise / (settings.spread * settings.pairs * len(chosen))
    number = training.generation + 1
    first = (1 - _SLOW) * training.first + _SLOW * slope
    second = (1 - _FAST) * training.second + _FAST * slope**2
    moved = (first / (1 - (1 - _SLOW) ** number)) / ((second / (1 - (1 - _FAST) ** number)).sqrt() + 1e-8)
    rate = settings.rate * (0.55 + 0.45 * math.cos(math.pi * training.part))
    own = [
        (latency_s[-1].item(), late[-1].item(), *usual[number])
        for number, (latency_s, late) in zip(chosen, found, strict=True)
    ]
    seen = {
        "latency": sum(mine / usual_s for mine, _, usual_s, _ in own) / len(own),
        "late": sum(mine - usual_late for _, mine, _, usual_late in own) / len(own),
    }
    return Training(weights - rate * moved, first, second, number, training.part), seen


def _player(settings: Settings, case: Case) -> Player:
    return Player(
        case.world(), 2 * settings.pairs + 1, case.worlds, settings.slots, settings.insertion, settings.device
    )


def _usual(settings: Settings, case: Case) -> tuple[float, float]:
    """Mean latency and share of late tasks of sequential greedy."""
    found = simulate.run(
        case.world()._replace(edge=case.world().edge._replace(slots=settings.slots)), "sequential-greedy", 1, 64
    )
    return float(found.measures["mean_s"][0]), 1 - float(found.measures["in_time"][0])


def _seeds(settings: Settings, generation: int, case: int) -> Tensor:
    """[W] episodes of this generation."""
    base = random.key(random.key(torch.tensor(settings.seed), _CHANCE), generation)
    return random.key(random.key(base, case), torch.arange(settings.cases[case].worlds))


def _noise(settings: Settings, generation: int) -> Tensor:
    """[pairs, SIZE]"""
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + generation)
    return settings.spread * torch.randn((settings.pairs, scorer.SIZE), generator=generator).to(settings.device)


def _chosen(settings: Settings, generation: int) -> list[int]:
    """The cases of a generation: all in turn, in an order of its own each round."""
    count, at_once = len(settings.cases), min(settings.cases_at_once, len(settings.cases))
    found: list[int] = []
    place = generation * at_once
    while len(found) < at_once:
        generator = torch.Generator().manual_seed(settings.seed * 7_919 + place // count)
        found.append(int(torch.randperm(count, generator=generator)[place % count]))
        place += 1
    return found

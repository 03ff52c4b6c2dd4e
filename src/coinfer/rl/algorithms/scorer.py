"""Training of `policies.learned.scorer` by evolution strategies, from sequential greedy in several orders on.

Salimans et al. 2017 (arXiv:1703.03864), with mirrored pairs, centred ranks and Adam. A generation plays whole episodes
with 2 * pairs disturbed copies of the weights, all of them and all worlds in one batch. All copies see the same random
numbers (common random numbers), so what differs between them is the weights' doing. There are few weights
(`scorer.SIZE`), and nothing is asked of the environment but to run it, with decisions that are made one after another
within a slot. What training takes off the latency of the weights that it begins with stands in experiments/own-policy.

What is made small is the mean over the cases (scenarios, loads, ages of what is known) of

    mean latency / that of sequential greedy  +  late_weight * share of late tasks

A generation plays `cases_at_once` of the cases, drawn in turns, each with disturbances of its own, and takes the ranks
within each.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, NamedTuple

import torch
from torch import Tensor

from coinfer.evaluate import simulate
from coinfer.physics import random
from coinfer.policies.learned import scorer
from coinfer.rl.core.rollout import Player
from coinfer.scenario.compile import open_world
from coinfer.scenario.world import OffloadWorld

_CHANCE = 1
_USUAL_WORLDS = 24
_SLOW, _FAST = 0.1, 0.02
"""Parts of Adam's moments that are new in each generation."""
Progress = Callable[["Training", dict[str, float]], None]
"""Takes where training is, and figures of the last generation: `latency`, `late`, `took_s`."""


class Case(NamedTuple):
    """A scenario with changed keys that the policy is trained for."""

    scenario: str
    changes: Mapping[str, Any]
    """Key to value, as in scenario files."""
    worlds: int = 8
    """Episodes that each copy plays in a generation."""

    def world(self) -> OffloadWorld:
        """Return the compiled world; the scenario's environment must be `offload`."""
        world = open_world(self.scenario, dict(self.changes)).world
        assert isinstance(world, OffloadWorld)
        return world


@dataclass(frozen=True)
class Settings:
    """What is trained, and how."""

    cases: tuple[Case, ...]
    pairs: int = 64
    """Mirrored disturbances in each case of a generation."""
    slots: int = 60
    """Of an episode."""
    cases_at_once: int = 4
    """In a generation."""
    generations: int = 300
    spread: float = 0.05
    """Standard deviation of the disturbance."""
    learning_rate: float = 0.03
    """Adam's, falling to a tenth along a half cosine."""
    late_weight: float = 3.0
    """Of the share of late tasks in what is made small."""
    seed: int = 0
    device: str = "cpu"
    processes: int = 1
    """Processes that play the cases of a generation."""
    start: tuple[float, ...] = field(default=(), repr=False)
    """Weights to begin with; if empty, those of `scorer.first_weights`."""


class Training(NamedTuple):
    """The state of a training between two generations."""

    weights: Tensor
    """[SIZE]"""
    first: Tensor
    """[SIZE] Adam's moments."""
    second: Tensor
    generation: int


def begin(settings: Settings) -> Training:
    """Return the state before the first generation."""
    weights = torch.tensor(settings.start) if settings.start else scorer.first_weights(settings.seed)
    weights = weights.to(settings.device)
    return Training(weights, torch.zeros_like(weights), torch.zeros_like(weights), 0)


def train(
    settings: Settings,
    training: Training | None = None,
    progress: Progress = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
) -> Training:
    """Train for all generations that are left, or until `stop` says so, and return the state.

    It does not depend on where training stopped in between, nor on the number of processes.

    Args:
        training: the state to go on from; None for the first.
        progress: called after every generation.
        stop: asked before every generation.
    """
    training = training or begin(settings)
    began_s = time.perf_counter()
    with _workers(settings) as played:
        while training.generation < settings.generations and not stop():
            training, seen = step(settings, played, training)
            progress(training, {**seen, "took_s": time.perf_counter() - began_s})
    return training


def step(settings: Settings, played: "Played", training: Training) -> tuple[Training, dict[str, float]]:
    """Play one generation; return the next state, and `latency` and `late` as in `Found`, means over the cases."""
    weights = training.weights
    tasks = [(number, training.generation, weights) for number in _chosen(settings, training.generation)]
    found = list(played(tasks))
    slope = torch.stack([one.slope for one in found]).mean(0)
    number = training.generation + 1
    first = (1 - _SLOW) * training.first + _SLOW * slope
    second = (1 - _FAST) * training.second + _FAST * slope**2
    moved = (first / (1 - (1 - _SLOW) ** number)) / ((second / (1 - (1 - _FAST) ** number)).sqrt() + 1e-8)
    part = training.generation / settings.generations
    learning_rate = settings.learning_rate * (0.55 + 0.45 * math.cos(math.pi * part))
    seen = {
        "latency": sum(one.latency for one in found) / len(found),
        "late": sum(one.late for one in found) / len(found),
    }
    return Training(weights - learning_rate * moved, first, second, number), seen


class Found(NamedTuple):
    """What the copies came to in one case."""

    slope: Tensor
    """[SIZE] estimated from ranks."""
    latency: float
    """Of the weights themselves, over that of sequential greedy."""
    late: float
    """Share of late tasks of the weights themselves, less that of sequential greedy."""


Task = tuple[int, int, Tensor]
"""Number of the case, generation, weights."""
Played = Callable[[list[Task]], Iterable[Found]]


class Bench:
    """Plays copies of the weights in the cases; keeps players and baselines between generations."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self._ready: dict[int, tuple[Player, float, float]] = {}

    @torch.no_grad()
    def __call__(self, task: Task) -> Found:
        """Return what the copies came to."""
        case, generation, weights = task
        settings, pairs = self.settings, self.settings.pairs
        player, usual_s, usual_late = self._case(case)
        noise = _noise(settings, generation, case)
        player.start(torch.cat((weights + noise, weights - noise, weights[None])), _seeds(settings, generation, case))
        latency_s, late = player.result()
        loss = latency_s / usual_s + settings.late_weight * late
        ranks = loss[:-1].argsort().argsort().to(noise.dtype) / (2 * pairs - 1) - 0.5
        slope = (ranks[:pairs] - ranks[pairs:]) @ noise / (settings.spread * pairs)
        return Found(slope, latency_s[-1].item() / usual_s, late[-1].item() - usual_late)

    def _case(self, number: int) -> tuple[Player, float, float]:
        if number not in self._ready:
            case = self.settings.cases[number]
            self._ready[number] = (_player(self.settings, case), *_usual(self.settings, case))
        return self._ready[number]


@contextmanager
def _workers(settings: Settings) -> Iterator[Played]:
    """Something that plays the cases of a generation, in this process or in several."""
    if settings.processes == 1:
        bench = Bench(settings)
        yield lambda tasks: map(bench, tasks)
        return
    with ProcessPoolExecutor(settings.processes, get_context("spawn"), _begin_worker, (settings,)) as pool:
        yield lambda tasks: pool.map(_play_in_worker, tasks)


_BENCH: list[Bench] = []
"""Of a worker process."""


def _begin_worker(settings: Settings) -> None:
    torch.set_num_threads(1)
    _BENCH.append(Bench(settings))


def _play_in_worker(task: Task) -> Found:
    return _BENCH[0](task)


def _player(settings: Settings, case: Case) -> Player:
    return Player(case.world(), 2 * settings.pairs + 1, case.worlds, settings.slots, settings.device)


def _usual(settings: Settings, case: Case) -> tuple[float, float]:
    """Mean latency and share of late tasks of sequential greedy."""
    world = case.world()
    world = world._replace(edge=world.edge._replace(slots=settings.slots))
    found = simulate.run_policy(world, "sequential-greedy", 1, _USUAL_WORLDS)
    return float(found.measures["mean_s"][0]), 1 - float(found.measures["in_time"][0])


def _seeds(settings: Settings, generation: int, case: int) -> Tensor:
    """[W] episodes of this generation."""
    base = random.key(random.key(torch.tensor(settings.seed), _CHANCE), generation)
    return random.key(random.key(base, case), torch.arange(settings.cases[case].worlds))


def _noise(settings: Settings, generation: int, case: int) -> Tensor:
    """[pairs, SIZE]"""
    generator = torch.Generator().manual_seed((settings.seed * 1_000_003 + generation) * 1_009 + case)
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

"""Training of `policies.learned.scorer` by evolution strategies, with sequential greedy in several orders as its start.

Salimans et al. 2017 (arXiv:1703.03864), with mirrored pairs, centred ranks and Adam. A generation plays whole episodes
with 2 * pairs perturbed copies of the weights, all copies and worlds in one batch. All copies get the same random
numbers (common random numbers), so that only their weights differ. There are few weights (`scorer_weights.SIZE`), and
the environment only has to run, with decisions that are made one after another within a slot. How much training lowers
the latency of the initial weights is measured in experiments/own-policy.

The loss is the mean over the cases (scenarios, loads, ages of observations) of

    mean latency / that of sequential greedy  +  late_weight * share of late tasks

A generation plays `cases_at_once` of the cases in turn, with perturbations of its own for each case, and ranks the
losses within a case.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.evaluate import simulate
from coinfer.physics import random
from coinfer.policies.learned.scorer import weights as scorer_weights
from coinfer.rl.core.rollout import Player
from coinfer.scenario.compile import open_world
from coinfer.scenario.world import OffloadWorld

_EPISODES = 1
"""Sub-stream of the seed that the episodes come from."""
_BASELINE_WORLDS = 24
_BETA1, _BETA2 = 0.9, 0.98
"""Adam's decay rates of its moments."""
Progress = Callable[["TrainingState", dict[str, float]], None]
"""Called with the state of the training and metrics of the last generation: `latency`, `late`, `took_s`."""


class Case(NamedTuple):
    """A scenario with changed keys to train in."""

    scenario: str
    """Name of a preset, or path of a file."""
    changes: Mapping[str, object]
    """Changed values by key, as in scenario files."""
    worlds: int = 8
    """Episodes that each copy plays in a generation."""

    def world(self) -> OffloadWorld:
        """Return the compiled world; the scenario's environment must be `offload`."""
        world = open_world(self.scenario, dict(self.changes)).world
        assert isinstance(world, OffloadWorld)
        return world


@dataclass(frozen=True)
class Settings:
    """Cases and hyperparameters of a training."""

    cases: tuple[Case, ...]
    pairs: int = 64
    """Mirrored pairs of perturbations in each case of a generation."""
    slots: int = 60
    """Length of an episode."""
    cases_at_once: int = 4
    """Cases that a generation plays."""
    generations: int = 300
    sigma: float = 0.05
    """Standard deviation of the perturbations."""
    learning_rate: float = 0.03
    """Adam's learning rate, which falls to a tenth along a half cosine."""
    late_weight: float = 3.0
    """Weight of the share of late tasks in the loss."""
    seed: int = 0
    device: str = "cpu"
    """PyTorch device of weights and worlds."""
    processes: int = 1
    """Processes that play the cases of a generation."""
    start: tuple[float, ...] = field(default=(), repr=False)
    """Initial weights; if empty, those of `scorer_weights.initial_weights`."""


class TrainingState(NamedTuple):
    """State of a training between two generations."""

    weights: Tensor
    """[SIZE] weights of the scorer."""
    first: Tensor
    """[SIZE] Adam's first moment."""
    second: Tensor
    """[SIZE] Adam's second moment."""
    generation: int
    """Generations done."""


def begin(settings: Settings) -> TrainingState:
    """Return the state before the first generation.

    Args:
        settings: `start` and `seed` decide the initial weights.
    """
    weights = torch.tensor(settings.start) if settings.start else scorer_weights.initial_weights(settings.seed)
    weights = weights.to(settings.device)
    return TrainingState(weights, torch.zeros_like(weights), torch.zeros_like(weights), 0)


def train(
    settings: Settings,
    state: TrainingState | None = None,
    progress: Progress = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
) -> TrainingState:
    """Train for the remaining generations, or until `stop` returns true.

    The result does not depend on interruptions, nor on the number of processes.

    Args:
        settings: cases and hyperparameters.
        state: the state to continue from; None to begin.
        progress: called after every generation.
        stop: called before every generation.

    Returns:
        The state after the last generation.
    """
    state = state or begin(settings)
    began_s = time.perf_counter()
    with _evaluator(settings) as evaluate:
        while state.generation < settings.generations and not stop():
            state, metrics = step(settings, evaluate, state)
            progress(state, {**metrics, "took_s": time.perf_counter() - began_s})
    return state


def step(settings: Settings, evaluate: "Evaluate", state: TrainingState) -> tuple[TrainingState, dict[str, float]]:
    """Train for one generation.

    Args:
        settings: cases and hyperparameters.
        evaluate: plays the generation's cases.
        state: the state before the generation; it is not changed.

    Returns:
        The next state, and `latency` and `late` of `CaseResult` as means over the generation's cases.
    """
    tasks = [(case, state.generation, state.weights) for case in _case_numbers(settings, state.generation)]
    results = list(evaluate(tasks))
    gradient = torch.stack([result.gradient for result in results]).mean(0)
    number = state.generation + 1
    first = _BETA1 * state.first + (1 - _BETA1) * gradient
    second = _BETA2 * state.second + (1 - _BETA2) * gradient**2
    direction = (first / (1 - _BETA1**number)) / ((second / (1 - _BETA2**number)).sqrt() + 1e-8)
    done = state.generation / settings.generations
    learning_rate = settings.learning_rate * (0.55 + 0.45 * math.cos(math.pi * done))
    metrics = {
        "latency": sum(result.latency for result in results) / len(results),
        "late": sum(result.late for result in results) / len(results),
    }
    return TrainingState(state.weights - learning_rate * direction, first, second, number), metrics


class CaseResult(NamedTuple):
    """Gradient and figures of one case in one generation."""

    gradient: Tensor
    """[SIZE] estimated from the ranks of the copies' losses."""
    latency: float
    """Mean latency of the unperturbed weights, relative to that of sequential greedy."""
    late: float
    """Share of late tasks of the unperturbed weights, minus that of sequential greedy."""


Task = tuple[int, int, Tensor]
"""Number of the case, generation, weights [SIZE]."""
Evaluate = Callable[[list[Task]], Iterable[CaseResult]]


class CaseEvaluator:
    """Plays perturbed copies of the weights; keeps each case's player and baseline between generations.

    Args:
        settings: cases and hyperparameters.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self._cases: dict[int, tuple[Player, float, float]] = {}

    @torch.no_grad()
    def __call__(self, task: Task) -> CaseResult:
        """Play one case.

        Args:
            task: number of the case, generation and weights.

        Returns:
            The estimated gradient of the loss, and figures of the unperturbed weights.
        """
        case, generation, weights = task
        settings, pairs = self.settings, self.settings.pairs
        player, baseline_s, baseline_late = self._case(case)
        noise = _noise(settings, generation, case)
        player.start(torch.cat((weights + noise, weights - noise, weights[None])), _seeds(settings, generation, case))
        latency_s, late = player.result()
        loss = latency_s / baseline_s + settings.late_weight * late
        ranks = loss[:-1].argsort().argsort().to(noise.dtype) / (2 * pairs - 1) - 0.5
        gradient = (ranks[:pairs] - ranks[pairs:]) @ noise / (settings.sigma * pairs)
        return CaseResult(gradient, latency_s[-1].item() / baseline_s, late[-1].item() - baseline_late)

    def _case(self, number: int) -> tuple[Player, float, float]:
        if number not in self._cases:
            case = self.settings.cases[number]
            self._cases[number] = (_player(self.settings, case), *_baseline(self.settings, case))
        return self._cases[number]


@contextmanager
def _evaluator(settings: Settings) -> Iterator[Evaluate]:
    """Yield a function that plays the cases of a generation, in this process or in several."""
    if settings.processes == 1:
        evaluator = CaseEvaluator(settings)
        yield lambda tasks: map(evaluator, tasks)
        return
    with ProcessPoolExecutor(settings.processes, get_context("spawn"), _begin_worker, (settings,)) as pool:
        yield lambda tasks: pool.map(_play_in_worker, tasks)


_EVALUATORS: list[CaseEvaluator] = []
"""The one evaluator of a worker process."""


def _begin_worker(settings: Settings) -> None:
    torch.set_num_threads(1)
    _EVALUATORS.append(CaseEvaluator(settings))


def _play_in_worker(task: Task) -> CaseResult:
    return _EVALUATORS[0](task)


def _player(settings: Settings, case: Case) -> Player:
    return Player(case.world(), 2 * settings.pairs + 1, case.worlds, settings.slots, settings.device)


def _baseline(settings: Settings, case: Case) -> tuple[float, float]:
    """Return mean latency in seconds and share of late tasks of sequential greedy."""
    world = case.world()
    world = world._replace(edge=world.edge._replace(slots=settings.slots))
    run = simulate.run_policy(world, "sequential-greedy", 1, _BASELINE_WORLDS)
    return float(run.measures["mean_s"][0]), 1 - float(run.measures["in_time"][0])


def _seeds(settings: Settings, generation: int, case: int) -> Tensor:
    """Return the seeds [W] of a case's episodes in a generation."""
    base = random.key(random.key(torch.tensor(settings.seed), _EPISODES), generation)
    return random.key(random.key(base, case), torch.arange(settings.cases[case].worlds))


def _noise(settings: Settings, generation: int, case: int) -> Tensor:
    """Return the perturbations [pairs, SIZE] of a case in a generation."""
    generator = torch.Generator().manual_seed((settings.seed * 1_000_003 + generation) * 1_009 + case)
    return settings.sigma * torch.randn((settings.pairs, scorer_weights.SIZE), generator=generator).to(settings.device)


def _case_numbers(settings: Settings, generation: int) -> list[int]:
    """Return the cases of a generation: all take turns, in an order of its own for each round of turns."""
    count, at_once = len(settings.cases), min(settings.cases_at_once, len(settings.cases))
    numbers: list[int] = []
    place = generation * at_once
    while len(numbers) < at_once:
        generator = torch.Generator().manual_seed(settings.seed * 7_919 + place // count)
        numbers.append(int(torch.randperm(count, generator=generator)[place % count]))
        place += 1
    return numbers

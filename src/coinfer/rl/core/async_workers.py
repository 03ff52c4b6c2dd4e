"""Asynchronous workers: threads that compute gradients on copies of central parameters and apply them at once.

Each of n workers repeats: copy the central parameters, play a rollout in its own worlds, compute the gradient on the
copy, apply it to the central set, which others may have changed meanwhile (A3C, Mnih et al., ICML 2016; multi-task A3C,
algorithm 1). All L learners of a training are batched within each worker. After `cycles` rollouts the workers wait for
each other, so that curves, assessments and checkpoints see one state. The order of the gradients depends on the
machine, so two such trainings differ; `on_policy.play` does the same in a fixed order.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from coinfer.rl.core.loop import Loop
from coinfer.rl.core.on_policy import ActorCritic, Rollout, rollout_of
from coinfer.rl.core.records import Observation, Transition

Tree = TypeVar("Tree")
Gradient = Callable[[ActorCritic, Tensor, Rollout], tuple[Tensor, dict[str, Tensor]]]
"""From a learner, copies of its parameters [L, P] and a rollout to gradients [L, P] and metrics [L]."""


class _Played(NamedTuple):
    """What a worker has done."""

    state: Any
    metrics: list[dict[str, Tensor]]
    """Of every step, [L, W], and of every update, [L]."""


def play_threads(loop: Loop, horizon: int, gamma: float, lam: float, cycles: int, gradient: Gradient) -> None:
    """Let all workers play some rollouts and learn from them, as threads.

    Args:
        loop: a training whose learner is an `ActorCritic`; its warm-up must be 0.
        horizon: steps of a rollout in each world.
        gamma: discount.
        lam: as in `on_policy.advantages`.
        cycles: rollouts of each worker until all wait for each other.
        gradient: of the loss of a rollout.
    """
    learner, lock = cast(ActorCritic, loop.learner), Lock()
    rounds = min(horizon * cycles, loop.settings.rounds - loop.round)
    numbers = range(learner.workers)

    def work(worker: int) -> _Played:
        return _work(loop, learner, lock, _Job(worker, rounds, horizon, gamma, lam, gradient))

    with ThreadPoolExecutor(learner.workers) as pool:
        played = list(pool.map(work, numbers))
    for worker in numbers:
        loop.state = _written(loop.state, played[worker].state, _rows(loop, worker))
    loop.observation = loop.env.observe(loop.state)
    loop.round += rounds
    for metrics in zip(*(one.metrics for one in played), strict=True):
        loop.count({name: torch.stack([one[name] for one in metrics], 1).flatten(1) for name in metrics[0]})
    loop.record_point()
    loop.assess()


class _Job(NamedTuple):
    """What a worker does until all wait for each other."""

    worker: int
    rounds: int
    horizon: int
    gamma: float
    lam: float
    gradient: Gradient


def _work(loop: Loop, learner: ActorCritic, lock: Lock, job: _Job) -> _Played:
    env, number, metrics = loop.env, loop.round, list[dict[str, Tensor]]()
    rows = _rows(loop, job.worker)
    keys, state = learner.keys[rows], _taken(loop.state, rows, len(learner.keys))
    observation: Observation = env.observe(state)
    while number < loop.round + job.rounds:
        with lock:
            flat = learner.flat.detach().clone()
        steps, ended = list[Transition](), list[Tensor]()
        for _ in range(min(job.horizon, loop.round + job.rounds - number)):
            action = learner.act_with(flat, keys, observation, number, explore=True)
            result = env.step(state, action)
            continues = 1.0 - result.terminated.to(result.reward.dtype)
            steps.append(Transition(*observation, action, result.reward, continues, *result.final_observation))
            ended.append(result.terminated | result.truncated)
            state, observation, number = result.state, result.observation, number + 1
            slot = result.reward.sum(-1) if result.reward.dim() == 3 else result.reward
            metrics.append({"reward": slot, **result.metrics})
        rollout = rollout_of(learner.net, flat, steps, ended, job.gamma, job.lam)
        gradient, figures = job.gradient(learner, flat, rollout)
        with lock:
            learner.optimiser.apply(gradient)
            learner.updates += 1
        metrics.append(figures)
    return _Played(state, metrics)


def _rows(loop: Loop, worker: int) -> Tensor:
    """Return the places [L] of a worker among all L * n."""
    learner = cast(ActorCritic, loop.learner)
    return torch.arange(len(learner.seeds), device=learner.keys.device) * learner.workers + worker


def _places(part: Tensor, rows: Tensor, count: int) -> Tensor | None:
    """Return the places of a worker along the first axis, which has one or several entries for each; None if none."""
    if part.dim() == 0 or part.shape[0] % count:
        return None
    worlds = part.shape[0] // count
    return (rows[:, None] * worlds + torch.arange(worlds, device=rows.device)).flatten()


def _taken(tree: Tree, rows: Tensor, count: int) -> Tree:
    """Return a worker's part of a state, whose first axis has the workers of all learners; `count` of them."""
    if not isinstance(tree, Tensor):
        return type(tree)(*(_taken(part, rows, count) for part in cast(tuple, tree)))
    places = _places(tree, rows, count)
    return cast(Tree, tree if places is None else tree[places])


def _written(tree: Tree, part: Tree, rows: Tensor) -> Tree:
    """Return a state with a worker's part in its places."""
    if not isinstance(tree, Tensor):
        pairs = zip(cast(tuple, tree), cast(tuple, part), strict=True)
        return type(tree)(*(_written(whole, some, rows) for whole, some in pairs))
    one = cast(Tensor, part)
    if one.shape == tree.shape:
        return cast(Tree, one)
    count = tree.shape[0] // (one.shape[0] // len(rows))
    places = _places(tree, rows, count)
    return cast(Tree, tree if places is None else tree.index_copy(0, places, one))

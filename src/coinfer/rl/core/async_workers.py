"""Workers that compute gradients on copies of central parameters, each in worlds of its own; asynchronous as threads.

Each of n workers repeats: copy the central parameters, play a rollout in its own worlds, compute the gradient on the
copy, apply it to the central set, which others may have changed meanwhile (A3C, Mnih et al., ICML 2016; multi-task A3C,
algorithm 1). All L learners of a training are batched within each worker. After `cycles` rollouts the workers wait for
each other, so that curves, assessments and checkpoints see one state. The order of the gradients depends on the
machine, so two such trainings differ; `on_policy.play` does the same in a fixed order. As processes, also on several
machines, the same workers are those of `rl.distributed.parameter_server`.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from coinfer.checkpoint import flatten_tree, unflatten_tree
from coinfer.rl.core.loop import Loop
from coinfer.rl.core.on_policy import ActorCritic, Decided, Rollout, rollout_of
from coinfer.rl.core.records import Env, Observation, Transition

Tree = TypeVar("Tree")
Gradient = Callable[[ActorCritic, Tensor, Rollout], tuple[Tensor, dict[str, Tensor]]]
"""From a learner, copies of its parameters [m, P] and a rollout to gradients [m, P] and metrics [m]."""
Metrics = list[dict[str, Tensor]]
"""Of every step, [L, W], and of every update, [L], in their order."""


class Played(NamedTuple):
    """What a worker answers."""

    state: Any
    """Of its worlds after the rollout."""
    gradient: Tensor
    """[m, P]"""
    metrics: Metrics


class RolloutPlayer(NamedTuple):
    """What workers need to play rollouts and to differentiate their losses."""

    env: Env[Any]
    learner: ActorCritic
    """Gives form of the networks and keys; its parameters are neither read nor changed."""
    gamma: float
    lam: float
    """As in `on_policy.advantages`."""
    gradient: Gradient

    def play(self, rows: Tensor, state: Any, flat: Tensor, rounds: range) -> Played:
        """Play a rollout in a worker's worlds and differentiate its loss.

        Args:
            rows: [m] of `worker_rows`.
            state: state of their worlds.
            flat: [m, P] copies of the parameters.
            rounds: numbers of the rounds before each step.
        """
        keys, metrics = self.learner.keys[rows], Metrics()
        observation: Observation = self.env.observe(state)
        steps, ended, decided = list[Transition](), list[Tensor](), list[Decided]()
        for number in rounds:
            decided.append(self.learner.decide(flat, keys, observation, number))
            action = decided[-1].action
            result = self.env.step(state, action)
            continues = 1.0 - result.terminated.to(result.reward.dtype)
            steps.append(Transition(*observation, action, result.reward, continues, *result.final_observation))
            ended.append(result.terminated | result.truncated)
            state, observation = result.state, result.observation
            slot = result.reward.sum(-1) if result.reward.dim() == 3 else result.reward
            metrics.append({"reward": slot, **result.metrics})
        rollout = rollout_of(self.learner.net, flat, steps, ended, self.gamma, self.lam, decided)
        gradient, figures = self.gradient(self.learner, flat, rollout)
        return Played(state, gradient, [*metrics, figures])


def play_threads(loop: Loop, player: RolloutPlayer, horizon: int, cycles: int) -> None:
    """Let all workers play some rollouts and learn from them, as threads.

    Args:
        loop: a training whose learner is an `ActorCritic`; its warm-up must be 0.
        player: of the same environment and learner.
        horizon: steps of a rollout in each world.
        cycles: rollouts of each worker until all wait for each other.
    """
    learner, lock = player.learner, Lock()
    end = min(loop.round + horizon * cycles, loop.settings.rounds)

    def work(worker: int) -> tuple[Any, Metrics]:
        rows, metrics = worker_rows(learner, worker), Metrics()
        state = take_rows(loop.state, rows, len(learner.keys))
        for begin in range(loop.round, end, horizon):
            with lock:
                flat = learner.flat.detach().clone()
            state, gradient, figures = player.play(rows, state, flat, range(begin, min(begin + horizon, end)))
            with lock:
                learner.optimiser.apply(gradient)
                learner.updates += 1
            metrics += figures
        return state, metrics

    with ThreadPoolExecutor(learner.workers) as pool:
        states, metrics = zip(*pool.map(work, range(learner.workers)), strict=True)
    end_rounds(loop, end, states, metrics)


def end_rounds(loop: Loop, end: int, states: Sequence[Any], metrics: Sequence[Metrics]) -> None:
    """Set a loop to the state that its workers have reached, with the curves and the assessment that belong to it.

    Args:
        loop: a training whose learner is an `ActorCritic`, already updated.
        end: number of the last round.
        states: state of each worker's worlds.
        metrics: of each worker.
    """
    learner = cast(ActorCritic, loop.learner)
    for worker, state in enumerate(states):
        loop.state = _put_rows(loop.state, state, worker_rows(learner, worker), len(learner.keys))
    loop.observation, loop.round = loop.env.observe(loop.state), end
    for each in zip(*metrics, strict=True):
        loop.count({name: torch.stack([one[name] for one in each], 1).flatten(0, 1) for name in each[0]})
    loop.record_point()
    loop.assess()


def worker_rows(learner: ActorCritic, worker: int) -> Tensor:
    """Return the places [L] of a worker among all L * n.

    Args:
        learner: L learners with n workers.
        worker: number of the worker.
    """
    return torch.arange(len(learner.seeds), device=learner.keys.device) * learner.workers + worker


def take_rows(state: Tree, rows: Tensor, count: int) -> Tree:
    """Return some workers' part of a state.

    Args:
        state: a state, in which first axes are the worlds of `count` workers, as many for each; others are shared.
        rows: [m] places of the workers.
        count: number of the workers of all learners.
    """
    parts = flatten_tree("state", state)
    for name, part in parts.items():
        if _is_by_world(part, count):
            parts[name] = _by_worker(part, count)[rows].flatten(0, 1)
    return unflatten_tree("state", state, parts)


def _put_rows(state: Tree, part: Tree, rows: Tensor, count: int) -> Tree:
    """Return a state with a part that `take_rows` took in its places."""
    parts, theirs = flatten_tree("state", state), flatten_tree("state", part)
    for name, ours in parts.items():
        if _is_by_world(ours, count):
            changed = _by_worker(ours, count).index_copy(0, rows, _by_worker(theirs[name], len(rows)))
            parts[name] = changed.flatten(0, 1)
    return unflatten_tree("state", state, parts)


def _is_by_world(part: Tensor, count: int) -> bool:
    return part.dim() > 0 and len(part) % count == 0


def _by_worker(part: Tensor, count: int) -> Tensor:
    return part.unflatten(0, (count, len(part) // count))

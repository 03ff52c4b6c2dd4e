"""Distributed A3C: every worker is a process, which may run on its own machine (`ray_workers`), and a `ParameterServer`
has the one central set of parameters.

A worker gets parameters and the state of its worlds, plays a rollout, and answers with its gradient and the state that
its worlds have reached. So the server's loop is the whole training, as if its process had played it, and a worker that
is lost costs its last rollout only, which another process plays again. In deterministic mode all workers get the same
parameters and their gradients are applied in a fixed order: the training is that of one process, bit by bit. In
asynchronous mode each gradient is applied at once and answered with the newest parameters, as with threads
(`rl.core.async_workers`).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from coinfer.checkpoint import flatten_tree, unflatten_tree
from coinfer.errors import TrainingError
from coinfer.rl.algorithms.a3c import A3cSettings, apply_in_order, job_player
from coinfer.rl.core.async_workers import Metrics, RolloutPlayer, end_rounds, take_rows, worker_rows
from coinfer.rl.core.blocks_training import BlocksJob
from coinfer.rl.core.loop import Loop
from coinfer.rl.core.on_policy import ActorCritic
from coinfer.rl.distributed import worker_group
from coinfer.rl.distributed.states import Array, Arrays, to_arrays, to_tensors
from coinfer.rl.distributed.worker_group import Promise, Recovery, StaleStateError, WorkerGroup, WorkerLostError


class RolloutAnswer(NamedTuple):
    """What a worker answers to a request."""

    gradient: Array
    """[L, P]"""
    state: Arrays
    """Of its worlds after the rollout."""
    metrics: list[Arrays]
    """As in `rl.core.async_workers.Metrics`."""


class _Ready(NamedTuple):
    """What a worker needs for rollouts of a training."""

    player: RolloutPlayer
    rows: Tensor
    """[m] of the worlds that it plays."""
    like: Any
    """A state of these worlds, for its form."""
    device: str


class GradientWorker:
    """A worker of every seed, with its own worlds and copies of the parameters.

    Args:
        number: number of the worker, from 0.
    """

    def __init__(self, number: int):
        self.number = number
        self._ready: _Ready | None = None

    def start(self, job: BlocksJob[A3cSettings]) -> None:
        """Get ready for rollouts of a training.

        Args:
            job: description of the training.
        """
        torch.set_num_threads(job.threads)
        player = job_player(job)
        rows = _played_rows(job.settings.learner, player.learner, self.number)
        like, _ = player.env.reset(player.learner.keys[rows])
        self._ready = _Ready(player, rows, like, job.device)

    def rollout(self, flat: Array, state: Arrays, begin: int, end: int, started: None = None) -> RolloutAnswer:
        """Play a rollout and compute the gradient of its loss.

        Args:
            flat: [L, P] central parameters.
            state: state of the worlds.
            begin: number of the round before the first step.
            end: number of the last round.
            started: result of `start`, if this is the first call after it: it must not have failed.

        Raises:
            StaleStateError: if the worker is new and does not know the training.
        """
        del started
        if self._ready is None:
            raise StaleStateError(f"worker {self.number}")
        player, rows, like, device = self._ready
        learners = len(flat)
        copies = torch.tensor(flat, device=device).repeat(len(rows) // learners, 1)
        worlds = unflatten_tree("state", like, to_tensors(state, device))
        played = player.play(rows, worlds, copies, range(begin, end))
        after = take_rows(played.state, torch.arange(learners, device=rows.device), len(rows))
        metrics = [{name: part[:learners] for name, part in each.items()} for each in played.metrics]
        gradient = played.gradient[:learners].cpu().numpy()
        return RolloutAnswer(gradient, to_arrays(flatten_tree("state", after)), [to_arrays(each) for each in metrics])


def _played_rows(settings: A3cSettings, learner: ActorCritic, worker: int) -> Tensor:
    """Return the rows that a worker computes, [m].

    In deterministic mode a single learner is computed twice: batched products round alike for any number of matrices
    but one, and one process has a matrix for each worker.
    """
    rows = worker_rows(learner, worker)
    return rows.repeat(2) if len(rows) == 1 < learner.workers and not settings.threads else rows


@dataclass
class _Request:
    """A rollout that a worker was asked for."""

    worker: int
    state: Arrays
    begin: int
    end: int
    promise: Promise
    sent_s: float
    loss: tuple[str, float, float] | None = None
    """Who was lost first, seconds from the request until then, and when."""


class ParameterServer:
    """A player of a loop of A3C in environment `blocks` on a group of workers.

    Args:
        workers: a `GradientWorker` for each worker of the loop's learner.
        job: description of the training.
        on_recovery: called after every loss that was made good.
        clock: returns seconds, monotonic.
        sleep: waits for a number of seconds before another attempt.
    """

    def __init__(
        self,
        workers: WorkerGroup,
        job: BlocksJob[A3cSettings],
        on_recovery: Callable[[Recovery], None] = lambda _: None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.workers, self.job, self.settings, self.on_recovery = workers, job, job.settings.learner, on_recovery
        self.clock, self.sleep = clock, sleep
        self.started = set[int]()
        """Workers that know the training, unless they are lost."""

    def play(self, loop: Loop[ActorCritic]) -> None:
        """Let every worker play a rollout, or several in asynchronous mode, and learn from them.

        Args:
            loop: the loop, which then has the state and curves as if it had played the rounds itself.

        Raises:
            TrainingError: if a lost worker is not replaced within `RECOVERY_TIMEOUT_S`.
        """
        learner, settings = loop.learner, self.settings
        count, at_once = learner.workers, bool(settings.threads)
        end = min(loop.round + settings.horizon * max(1, settings.threads), loop.settings.rounds)
        requests = [self._first_request(loop, worker, end) for worker in range(count)]
        states, metrics, gradients = [Arrays() for _ in range(count)], [Metrics() for _ in range(count)], {}
        while requests:
            done, answer = self._next_answer(learner, requests)
            worker, gradient = done.worker, torch.tensor(answer.gradient, device=learner.flat.device)
            states[worker] = answer.state
            metrics[worker] += [to_tensors(each, learner.flat.device) for each in answer.metrics]
            if at_once:
                learner.optimiser.apply(gradient)
                learner.updates += 1
            else:
                gradients[worker] = gradient
            if done.end < end:
                requests.append(self._request(learner, worker, answer.state, done.end, end))
        apply_in_order(settings, learner, [gradients[worker] for worker in sorted(gradients)])
        reached = [unflatten_tree("state", loop.state, to_tensors(state)) for state in states]
        end_rounds(loop, end, reached, metrics)

    def _first_request(self, loop: Loop[ActorCritic], worker: int, end: int) -> _Request:
        rows = _played_rows(self.settings, loop.learner, worker)
        state = take_rows(loop.state, rows, len(loop.learner.keys))
        return self._request(loop.learner, worker, to_arrays(flatten_tree("state", state)), loop.round, end)

    def _request(self, learner: ActorCritic, worker: int, state: Arrays, begin: int, end: int) -> _Request:
        """Ask a worker for its next rollout with the newest parameters."""
        end = min(begin + self.settings.horizon, end)
        promise = self._call(learner, worker, state, begin, end)
        return _Request(worker, state, begin, end, promise, self.clock())

    def _call(self, learner: ActorCritic, worker: int, state: Arrays, begin: int, end: int) -> Promise:
        before = [] if worker in self.started else [self.workers.call(worker, "start", self.job)]
        self.started.add(worker)
        return self.workers.call(worker, "rollout", learner.flat.detach().cpu().numpy(), state, begin, end, *before)

    def _next_answer(self, learner: ActorCritic, requests: list[_Request]) -> tuple[_Request, RolloutAnswer]:
        """Wait for a worker's answer and return it with its request, which is removed; ask again for what is lost."""
        while True:
            request = requests.pop(self.workers.first_done([request.promise for request in requests]))
            try:
                (answer,) = self.workers.wait([request.promise])
            except WorkerLostError as error:
                requests.append(self._again(learner, request, error))
                continue
            if request.loss:
                who, age_s, at_s = request.loss
                self.on_recovery(Recovery(who, request.begin, request.end - request.begin, age_s, self.clock() - at_s))
            return request, answer

    def _again(self, learner: ActorCritic, request: _Request, error: WorkerLostError) -> _Request:
        """Ask again for a rollout that is lost."""
        now_s = self.clock()
        request.loss = request.loss or (str(error), now_s - request.sent_s, now_s)
        if now_s - request.loss[2] > worker_group.RECOVERY_TIMEOUT_S:
            raise TrainingError(f"a lost worker was not replaced: {error}")
        self.started.discard(request.worker)
        self.sleep(0.2)
        request.promise = self._call(learner, request.worker, request.state, request.begin, request.end)
        return request

"""Distributed CDO-DSAC: each agent and the central controller is a worker (`workers`), which may run on its own machine
(`ray_workers`).

A `Coordinator` has a group of workers play the next rounds of a loop, and restores its own copy of the loop to the
state that they reach: that copy is the whole training, as if the coordinator had played it itself. If a worker is lost,
all workers are restored to the copy's state, which is about `BACKUP_INTERVAL_S` old at most, and play the rounds since
then again. As random numbers depend on keys and rounds only, the results are the same: a loss only costs time.
"""

import time
from collections.abc import Callable, Sequence

from coinfer.errors import TrainingError
from coinfer.rl.algorithms.cdo_dsac import CdoDsac, TrainingJob
from coinfer.rl.core.loop import Loop, Point
from coinfer.rl.distributed import worker_group
from coinfer.rl.distributed.states import (
    Arrays,
    Parts,
    merge_points,
    merge_states,
    split_state,
    to_arrays,
    to_tensors,
    to_transition,
)
from coinfer.rl.distributed.worker_group import Promise, Recovery, WorkerGroup, WorkerLostError

BACKUP_INTERVAL_S = 0.5
"""Seconds from one state that the coordinator takes over to the next; including the transfer it stays below a second.
Judging the agents, which makes no new records, may take longer."""


class Coordinator:
    """A player of a loop of `cdo_dsac.make_loop` on a group of workers.

    Args:
        workers: k agents and the controller, not yet restored to any state.
        job: description of the training.
        on_recovery: called after every loss that was made good.
        clock: returns seconds, monotonic.
        sleep: waits for a number of seconds before another attempt.
    """

    def __init__(
        self,
        workers: WorkerGroup,
        job: TrainingJob,
        on_recovery: Callable[[Recovery], None] = lambda _: None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.workers, self.job, self.on_recovery, self.clock, self.sleep = workers, job, on_recovery, clock, sleep
        self.agents = range(job.settings.agents)
        self.term, self.restored = 0, False
        self.chunk = 1
        """Number of rounds that the workers play between two states that the coordinator takes over."""
        self.recoveries: list[Recovery] = []

    def play(self, loop: Loop[CdoDsac]) -> None:
        """Play some rounds, for about `BACKUP_INTERVAL_S`.

        Args:
            loop: the loop, which then has the state and curves as if it had played the rounds itself.

        Raises:
            TrainingError: if a lost worker is not replaced within `RECOVERY_TIMEOUT_S`.
        """
        rounds = self._next_rounds(loop)
        took_s = self._retry(loop, rounds, lambda: self._play(loop, rounds))
        if not self._broadcasts(loop, loop.round, loop.learner.sac.updates):
            self.chunk = max(1, min(2 * self.chunk, int(rounds * BACKUP_INTERVAL_S / max(took_s, 1e-6))))
        if loop.settings.assesses(loop.round):
            self._retry(loop, 0, lambda: self._assess(loop))

    def _retry(self, loop: Loop[CdoDsac], rounds: int, act: Callable[[], None]) -> float:
        """Act from the loop's state, and again after every loss; return the seconds of the last attempt."""
        loss, start = None, loop.round
        while True:
            began_s = self.clock()
            try:
                if not self.restored:
                    self._restore(loop)
                    began_s = self.clock()
                act()
                break
            except WorkerLostError as error:
                now_s, self.restored = self.clock(), False
                loss = loss or (str(error), now_s - began_s, now_s)
                if now_s - loss[2] > worker_group.RECOVERY_TIMEOUT_S:
                    raise TrainingError(f"a lost agent or controller was not replaced: {error}") from None
                self.sleep(0.2)
        now_s = self.clock()
        if loss:
            who, age_s, at_s = loss
            self.recoveries.append(Recovery(who, start, rounds, age_s, now_s - at_s))
            self.on_recovery(self.recoveries[-1])
        return now_s - began_s

    def _play(self, loop: Loop[CdoDsac], rounds: int) -> None:
        *states, new_records = self.workers.wait(self._call_rounds(loop, rounds))
        update_loop(loop, states, new_records)

    def _assess(self, loop: Loop[CdoDsac]) -> None:
        loop.assessed.append(merge_points(self.workers.wait(self._call_agents("assess"))))

    def _next_rounds(self, loop: Loop[CdoDsac]) -> int:
        """Return how many rounds to play next: one with an assessment ends them, one with a broadcast is alone."""
        chunk = min(self.chunk, loop.settings.rounds - loop.round)
        updates = loop.learner.sac.updates
        for count in range(1, chunk + 1):
            updates += len(loop.settings.batch_numbers(loop.round + count))
            if self._broadcasts(loop, loop.round + count, updates):
                return max(1, count - 1)
            if loop.settings.assesses(loop.round + count):
                return count
        return chunk

    def _broadcasts(self, loop: Loop[CdoDsac], number: int, updates: int) -> bool:
        """Return whether a round broadcasts, given the number of updates that are done after it."""
        every = self.job.settings.broadcast_every
        return bool(every and loop.settings.batch_numbers(number) and updates % every == 0)

    def _restore(self, loop: Loop[CdoDsac]) -> None:
        """Restore all workers to the state of the loop, in a new term."""
        self.term += 1
        whole = loop.tensors()
        states = [*map(to_arrays, split_state(whole, len(self.agents), whole)), to_arrays(whole)]
        promises = [self.workers.call(i, "restore", self.term, self.job, state) for i, state in enumerate(states)]
        self.workers.wait(promises)
        self.restored = True

    def _call_rounds(self, loop: Loop[CdoDsac], rounds: int) -> list[Promise]:
        """Return promises of the agents' states and of the controller's new records after the next rounds."""
        agents = controller = len(self.agents)
        updates = loop.learner.sac.updates
        for number in range(loop.round + 1, loop.round + rounds + 1):
            records = self._call_agents("step")
            batches = self.workers.call_parts(controller, "exchange", self.term, number, *records, parts=agents)
            if loop.settings.batch_numbers(number):
                self._call_agents("learn", batches)
                updates += 1
                if self._broadcasts(loop, number, updates):
                    learners = self._call_agents("learners")
                    best = self.workers.call_parts(controller, "broadcast", self.term, *learners, parts=agents)
                    self._call_agents("load_learners", best)
        return [*self._call_agents("state"), self.workers.call(controller, "new_records", self.term)]

    def _call_agents(self, method: str, arguments: Sequence[Promise] | None = None) -> list[Promise]:
        each = [()] * len(self.agents) if arguments is None else [(argument,) for argument in arguments]
        return [self.workers.call(i, method, self.term, *each[i]) for i in self.agents]


def update_loop(
    loop: Loop[CdoDsac], states: Sequence[tuple[Arrays, list[Point]]], new_records: Sequence[Parts]
) -> None:
    """Restore the loop of all agents to the states that they have reached.

    Args:
        loop: the loop to change, with its replay memory and curves.
        states: state and new points of each agent, as `Agent.state` returns them.
        new_records: steps since the last state, as `Controller.new_records` returns them.
    """
    loop.restore(merge_states([to_tensors(arrays) for arrays, _ in states], loop.tensors()))
    for record in new_records:
        loop.remember(to_transition(record, loop.keys.device))
    loop.points += [merge_points(points) for points in zip(*(points for _, points in states), strict=True)]

"""CDO-DSAC taken apart: each agent and the central controller is a worker (`workers`) that may live on a machine of its
own (`ray_workers`).

A `Coordinator` asks a group of workers to play a loop's next rounds, and brings that loop to the state that they reach:
the loop on the coordinator's side is the whole training, as if it had been played there. When a worker is lost, all go
back to that state, which is at most about `BACKUP_INTERVAL_S` old, and the rounds since are played again. As random
numbers are counted from keys and rounds, they come out as they were: a loss costs time and nothing else.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from coinfer.errors import TrainingError
from coinfer.rl.algorithms.cdo_dsac import CdoDsac, TrainingJob
from coinfer.rl.core.loop import Loop, Point
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

BACKUP_INTERVAL_S = 0.5
"""Target for the time from one state that the coordinator takes over to the next; with what taking one over costs it
stays below a second. Judging the agents, which makes no new records, comes on top."""
RECOVERY_TIMEOUT_S = 120.0
"""After so long without a round that all workers finished, the training ends."""
Promise = Any
"""Of a result: what a group's `call` returns."""


class WorkerLostError(Exception):
    """A worker, or what it returned, is lost."""


class WorkerGroup(Protocol):
    """Workers 0 to k - 1 are the agents, k the controller. Each does what it is asked in the order of asking."""

    def call(self, worker: int, method: str, *arguments: object) -> Promise:
        """Return a promise of the result of a worker's method.

        Args:
            worker: number of the worker.
            method: name of its method.
            arguments: promises among them are replaced by their results.
        """
        ...

    def call_parts(self, worker: int, method: str, *arguments: object, parts: int) -> list[Promise]:
        """Return promises of the parts of a result, one for each.

        Args:
            worker: number of the worker.
            method: name of its method, which returns a list of so many parts, or the only part itself.
            arguments: promises among them are replaced by their results.
            parts: number of parts, at least 1.
        """
        ...

    def wait(self, promises: Sequence[Promise]) -> list[Any]:
        """Return what the promises promise.

        Raises:
            WorkerLostError: if a worker that they need is lost.
        """
        ...


class Recovery(NamedTuple):
    """A lost worker that was replaced."""

    who: str
    round: int
    """That all went back to."""
    rounds: int
    """After that one, which may have been played in part and are played again."""
    age_s: float
    """From their beginning until the loss was noticed."""
    took_s: float
    """From then until the workers have played on."""


class Coordinator:
    """Plays a loop of `cdo_dsac.make_loop` on a group of workers.

    Args:
        on_recovery: called after every loss that was made good.
        clock: seconds.
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
        self.term, self.placed = 0, False
        self.rounds = 1
        """That are asked for at once."""
        self.recoveries: list[Recovery] = []

    def play(self, loop: Loop[CdoDsac]) -> None:
        """Play some rounds, about `BACKUP_INTERVAL_S` long; the loop is then as if it had played them itself.

        Raises:
            TrainingError: if a lost worker is not replaced in time.
        """
        rounds = self._at_once(loop)
        took_s = self._until_done(loop, rounds, lambda: self._play(loop, rounds))
        if not self._broadcasts(loop, loop.round, loop.learner.sac.updates):
            self.rounds = max(1, min(2 * self.rounds, int(rounds * BACKUP_INTERVAL_S / max(took_s, 1e-6))))
        if loop.settings.assesses(loop.round):
            self._until_done(loop, 0, lambda: self._assess(loop))

    def _until_done(self, loop: Loop[CdoDsac], rounds: int, act: Callable[[], None]) -> float:
        """Act from the loop's state, again after every loss; returns how long the last attempt took."""
        lost, start = None, loop.round
        while True:
            began_s = self.clock()
            try:
                if not self.placed:
                    self._place(loop)
                    began_s = self.clock()
                act()
                break
            except WorkerLostError as error:
                now_s, self.placed = self.clock(), False
                lost = lost or (str(error), now_s - began_s, now_s)
                if now_s - lost[2] > RECOVERY_TIMEOUT_S:
                    raise TrainingError(f"a lost agent or controller was not replaced: {error}") from None
                self.sleep(0.2)
        now_s = self.clock()
        if lost:
            who, age_s, at_s = lost
            self.recoveries.append(Recovery(who, start, rounds, age_s, now_s - at_s))
            self.on_recovery(self.recoveries[-1])
        return now_s - began_s

    def _play(self, loop: Loop[CdoDsac], rounds: int) -> None:
        *states, new_records = self.workers.wait(self._call_rounds(loop, rounds))
        update_loop(loop, states, new_records)

    def _assess(self, loop: Loop[CdoDsac]) -> None:
        loop.assessed.append(merge_points(self.workers.wait(self._call_agents("assess"))))

    def _at_once(self, loop: Loop[CdoDsac]) -> int:
        """How many rounds to ask for: what takes long comes last, an assessment, or is alone, a broadcast."""
        at_once = min(self.rounds, loop.settings.rounds - loop.round)
        updates = loop.learner.sac.updates
        for count in range(1, at_once + 1):
            updates += len(loop.settings.batch_numbers(loop.round + count))
            if self._broadcasts(loop, loop.round + count, updates):
                return max(1, count - 1)
            if loop.settings.assesses(loop.round + count):
                return count
        return at_once

    def _broadcasts(self, loop: Loop[CdoDsac], number: int, updates: int) -> bool:
        """Whether the round broadcasts; so many updates are done with it."""
        every = self.job.settings.broadcast_every
        return bool(every and loop.settings.batch_numbers(number) and updates % every == 0)

    def _place(self, loop: Loop[CdoDsac]) -> None:
        """Bring all workers to the state of the loop."""
        self.term += 1
        whole = loop.tensors()
        states = [*map(to_arrays, split_state(whole, len(self.agents), whole)), to_arrays(whole)]
        promises = [self.workers.call(i, "restore", self.term, self.job, state) for i, state in enumerate(states)]
        self.workers.wait(promises)
        self.placed = True

    def _call_rounds(self, loop: Loop[CdoDsac], rounds: int) -> list[Promise]:
        """Promises of the agents' states and of the controller's new records after so many rounds."""
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
    """Bring the loop of all to the states that the agents have reached, with the controller's new records."""
    loop.restore(merge_states([to_tensors(arrays) for arrays, _ in states], loop.tensors()))
    for record in new_records:
        loop.remember(to_transition(record, loop.keys.device))
    loop.points += [merge_points(points) for points in zip(*(points for _, points in states), strict=True)]

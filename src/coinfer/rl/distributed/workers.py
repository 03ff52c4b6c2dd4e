"""The workers of a training of CDO-DSAC: each agent by itself, and the central controller with the shared memory and
the optimal policy updater. Loop and updates are those of `rl.algorithms.cdo_dsac`."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch

from coinfer.rl.algorithms.cdo_dsac import CdoDsac, TrainingJob
from coinfer.rl.core.batched_optim import add_prefix, strip_prefix
from coinfer.rl.core.loop import Loop, Point
from coinfer.rl.core.placement_env import trim_tasks
from coinfer.rl.distributed.states import (
    Arrays,
    Parts,
    merge_states,
    split_state,
    to_arrays,
    to_parts,
    to_tensors,
    to_transition,
)

Part = TypeVar("Part")


class StaleStateError(Exception):
    """A worker was asked to go on from a state that it does not have: it is new, or its group has gone back."""


class _Worker:
    """What has a state of a certain term; another term is another attempt to go on from the same state.

    Args:
        agent: its number; None for the controller.
    """

    job: TrainingJob
    loop: Loop[CdoDsac]

    def __init__(self, agent: int | None):
        self.agent, self.term = agent, -1

    def restore(self, term: int, job: TrainingJob, state: Arrays) -> None:
        """Take over a state."""
        if self.term < 0:
            torch.set_num_threads(job.threads)
            self.job, self.loop = job, job.loop(self.agent)
        self.loop.replay = None
        self.loop.restore(to_tensors(state, job.device))
        self.loop.points, self.loop.assessed = [], []
        self.term = term

    def _check(self, term: int) -> None:
        if term != self.term:
            raise StaleStateError("the controller" if self.agent is None else f"agent {self.agent}")


class Agent(_Worker):
    """One agent of every seed, with its own worlds. All methods take the term, and raise `StaleStateError`."""

    def __init__(self, number: int):
        super().__init__(number)
        self.ended = True

    def restore(self, term: int, job: TrainingJob, state: Arrays) -> None:
        """Take over a state."""
        super().restore(term, job, state)
        self.ended = True

    def step(self, term: int) -> Parts:
        """End the last round, begin the next, and return the transition to remember [S, W, ..]."""
        self._check(term)
        self._end()
        self.ended = False
        return to_parts(self.loop.step())

    def learn(self, term: int, batch: Parts) -> None:
        """Update from a batch [S, n, ..]."""
        self._check(term)
        self.loop.learn(to_transition(batch, self.job.device))

    def learners(self, term: int) -> Arrays:
        """Return what the updater judges."""
        self._check(term)
        return to_arrays(add_prefix("learner", self.loop.learner.tensors()))

    def load_learners(self, term: int, learners: Arrays) -> None:
        """Go on with these parameters."""
        self._check(term)
        self.loop.learner.restore(strip_prefix("learner", to_tensors(learners, self.job.device)))

    def state(self, term: int) -> tuple[Arrays, list[Point]]:
        """End the round; return all that the agent holds, and the points of its curves since the last call."""
        self._check(term)
        self._end()
        points, self.loop.points = self.loop.points, []
        return to_arrays(self.loop.tensors()), points

    def assess(self, term: int) -> Point:
        """Return how the agent does on held-out worlds after this round."""
        self._check(term)
        self.loop.assess()
        return self.loop.assessed.pop()

    def _end(self) -> None:
        if not self.ended:
            self.loop.record_point()
        self.ended = True


class Controller(_Worker):
    """The shared memory of every seed, and the optimal policy updater. Methods as those of `Agent`."""

    def __init__(self):
        super().__init__(None)
        self.fresh: list[Parts] = []

    def restore(self, term: int, job: TrainingJob, state: Arrays) -> None:
        """Take over a state."""
        super().restore(term, job, state)
        self.fresh = []

    def exchange(self, term: int, number: int, *records: Parts) -> Parts | list[Parts] | list[None] | None:
        """Remember all agents' records of a round, and return each agent's batch, None if the round learns nothing.

        Args:
            number: of the round, counted from 1.
            records: of each agent [S, W, ..].
        """
        self._check(term)
        record = tuple(np.concatenate(parts, 1) for parts in zip(*records, strict=True))
        self.fresh.append(record)
        self.loop.remember(to_transition(record, self.job.device))
        numbers = self.loop.settings.batch_numbers(number)
        if not numbers:
            return _results([None] * len(records))
        batch = self.loop.sample(numbers[0])
        if self.job.settings.form == "places":
            batch = trim_tasks(batch)
        by_agent = [part.unflatten(0, (-1, len(records))).unbind(1) for part in batch]
        return _results([to_parts(parts) for parts in zip(*by_agent, strict=True)])

    def broadcast(self, term: int, *learners: Arrays) -> Arrays | list[Arrays]:
        """Judge all agents on common worlds, and return each agent's new parameters: those of its seed's best."""
        self._check(term)
        learner = self.loop.learner
        like = add_prefix("learner", learner.tensors())
        learner.restore(strip_prefix("learner", merge_states([to_tensors(part) for part in learners], like)))
        learner.broadcast()
        parts = split_state(add_prefix("learner", learner.tensors()), len(learners), like)
        return _results([to_arrays(part) for part in parts])

    def new_records(self, term: int) -> list[Parts]:
        """Return the records since the last call."""
        self._check(term)
        fresh, self.fresh = self.fresh, []
        return fresh


def _results(parts: Sequence[Part]) -> Part | list[Part]:
    """As many results as a caller that wants that many unpacks; one is itself."""
    return list(parts) if len(parts) > 1 else parts[0]

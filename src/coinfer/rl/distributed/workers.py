"""The workers of a distributed CDO-DSAC: each agent by itself, and the central controller with the shared memory and
the optimal policy updater. Loop and updates are those of `rl.algorithms.cdo_dsac`.

Every method takes a term: the number of the coordinator's attempt to continue from a state. A worker that does not have
the state of that term raises `StaleStateError`.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch

from coinfer.rl.algorithms.cdo_dsac import CdoDsac, TrainingJob
from coinfer.rl.core.batched_optim import add_prefix, strip_prefix
from coinfer.rl.core.envs.placements import trim_tasks
from coinfer.rl.core.loop import Loop, Point
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
from coinfer.rl.distributed.worker_group import StaleStateError

Part = TypeVar("Part")


class LoopReplica:
    """A worker's copy of a training's loop, with the state of one term.

    Args:
        agent: number of the agent whose part of the loop it holds; None for the controller, which holds all agents.
    """

    job: TrainingJob

    def __init__(self, agent: int | None):
        self.agent, self.term = agent, -1
        self._loop: Loop[CdoDsac] | None = None

    def restore(self, term: int, job: TrainingJob, state: Arrays) -> None:
        """Begin a term with a state, without replay memory and curves.

        Args:
            term: number of the term.
            job: description of the training, the same in every call.
            state: state by name, of the agent's or all learners.
        """
        if self._loop is None:
            torch.set_num_threads(job.threads)
            self.job, self._loop = job, job.loop(self.agent)
        self._loop.replay = None
        self._loop.restore(to_tensors(state, job.device))
        self._loop.points, self._loop.assessed = [], []
        self.term = term

    def loop(self, term: int) -> Loop[CdoDsac]:
        """Return the loop of a term.

        Args:
            term: number of the term.

        Raises:
            StaleStateError: if the loop has the state of another term, or none.
        """
        if term != self.term or self._loop is None:
            raise StaleStateError("the controller" if self.agent is None else f"agent {self.agent}")
        return self._loop


class Agent:
    """One agent of every seed, with its own worlds.

    Args:
        number: number of the agent, from 0.
    """

    def __init__(self, number: int):
        self._replica = LoopReplica(number)
        self._in_round = False

    def restore(self, term: int, job: TrainingJob, state: Arrays) -> None:
        """Begin a term with a state.

        Args:
            term: number of the term.
            job: description of the training.
            state: state of this agent's learners, of `split_state`.
        """
        self._replica.restore(term, job, state)
        self._in_round = False

    def step(self, term: int) -> Parts:
        """End the last round and begin the next with a step in all worlds.

        Args:
            term: number of the term.

        Returns:
            The transition to remember, [S, W, ..].
        """
        loop = self._replica.loop(term)
        self._end_round(loop)
        self._in_round = True
        return to_parts(loop.step())

    def learn(self, term: int, batch: Parts) -> None:
        """Update the learners once.

        Args:
            term: number of the term.
            batch: [S, n, ..] sampled steps.
        """
        self._replica.loop(term).learn(to_transition(batch, self._replica.job.device))

    def learners(self, term: int) -> Arrays:
        """Return the learners' state, for the updater to judge.

        Args:
            term: number of the term.
        """
        return to_arrays(add_prefix("learner", self._replica.loop(term).learner.tensors()))

    def load_learners(self, term: int, learners: Arrays) -> None:
        """Continue with another state of the learners.

        Args:
            term: number of the term.
            learners: the state that the updater broadcast.
        """
        loop = self._replica.loop(term)
        loop.learner.restore(strip_prefix("learner", to_tensors(learners, self._replica.job.device)))

    def state(self, term: int) -> tuple[Arrays, list[Point]]:
        """End the round.

        Args:
            term: number of the term.

        Returns:
            The agent's whole state, and the points of its curves since the last call.
        """
        loop = self._replica.loop(term)
        self._end_round(loop)
        points, loop.points = loop.points, []
        return to_arrays(loop.tensors()), points

    def assess(self, term: int) -> Point:
        """Return the agent's figures on held-out worlds, after a round that ends with an assessment.

        Args:
            term: number of the term.
        """
        loop = self._replica.loop(term)
        loop.assess()
        return loop.assessed.pop()

    def _end_round(self, loop: Loop[CdoDsac]) -> None:
        if self._in_round:
            loop.record_point()
        self._in_round = False


class Controller:
    """The shared memory of every seed, and the optimal policy updater."""

    def __init__(self):
        self._replica = LoopReplica(None)
        self._new_records: list[Parts] = []

    def restore(self, term: int, job: TrainingJob, state: Arrays) -> None:
        """Begin a term with a state.

        Args:
            term: number of the term.
            job: description of the training.
            state: state of all learners, with the replay memory.
        """
        self._replica.restore(term, job, state)
        self._new_records = []

    def exchange(self, term: int, number: int, *records: Parts) -> Parts | list[Parts] | list[None] | None:
        """Remember the agents' steps of a round and sample their batches.

        Args:
            term: number of the term.
            number: number of the round, counted from 1.
            records: [S, W, ..] the steps of each agent.

        Returns:
            Each agent's batch [S, n, ..], or None if the round does not learn; without a list if there is one agent.
        """
        loop = self._replica.loop(term)
        record = tuple(np.concatenate(parts, 1) for parts in zip(*records, strict=True))
        self._new_records.append(record)
        loop.remember(to_transition(record, self._replica.job.device))
        numbers = loop.settings.batch_numbers(number)
        if not numbers:
            return _results([None] * len(records))
        batch = loop.sample(numbers[0])
        if self._replica.job.settings.form == "places":
            batch = trim_tasks(batch)
        by_agent = [part.unflatten(0, (-1, len(records))).unbind(1) for part in batch]
        return _results([to_parts(parts) for parts in zip(*by_agent, strict=True)])

    def broadcast(self, term: int, *learners: Arrays) -> Arrays | list[Arrays]:
        """Judge all agents on common worlds and copy each seed's best to the others.

        Args:
            term: number of the term.
            learners: state of each agent's learners.

        Returns:
            Each agent's new state of its learners; without a list if there is one agent.
        """
        learner = self._replica.loop(term).learner
        like = add_prefix("learner", learner.tensors())
        learner.restore(strip_prefix("learner", merge_states([to_tensors(part) for part in learners], like)))
        learner.broadcast()
        parts = split_state(add_prefix("learner", learner.tensors()), len(learners), like)
        return _results([to_arrays(part) for part in parts])

    def new_records(self, term: int) -> list[Parts]:
        """Return the steps of all agents since the last call, [S, k * W, ..] for each round.

        Args:
            term: number of the term.
        """
        self._replica.loop(term)
        records, self._new_records = self._new_records, []
        return records


def _results(parts: Sequence[Part]) -> Part | list[Part]:
    """Return the parts as a list, or the only part itself, as `WorkerGroup.call_parts` asks for."""
    return list(parts) if len(parts) > 1 else parts[0]

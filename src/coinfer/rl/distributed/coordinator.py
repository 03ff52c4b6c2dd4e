"""CDO-DSAC taken apart: each agent and the central controller (shared memory, optimal policy updater) by itself, so
that each may live on a machine of its own (`rl.distributed.ray_workers`), with the loop and the updates
of `rl.algorithms.cdo_dsac`.

A `Coordinator` asks the members of a crew to play a loop's next rounds, and keeps in that loop what they have become:
the loop on the conductor's side is the whole training, as if it had been played there. When a member is lost, all go
back to that state, which is at most about `BACKUP_INTERVAL_S` old, and the rounds since are played again. As all chance
is counted from keys and rounds, they come out as they were: a loss costs time and nothing else.

What crosses between members are NumPy arrays: steps [S, W, ..], batches [S, n, ..], and states by name.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from coinfer.errors import TrainingError
from coinfer.rl.algorithms.cdo_dsac import CdoSettings, make_loop
from coinfer.rl.core.batched_optim import add_prefix, strip_prefix
from coinfer.rl.core.loop import Loop, Point
from coinfer.rl.core.placement_env import trim_tasks
from coinfer.rl.core.records import Transition
from coinfer.scenario.world import OffloadWorld

BACKUP_INTERVAL_S = 0.5
"""Wanted time from one state that the conductor keeps to the next, so that with what taking one takes it stays below a
second. Judging the agents, which makes no new records, comes on top."""
RECOVERY_TIMEOUT_S = 120.0
"""After so long without a round that all members finished, the training ends."""

Arrays = dict[str, np.ndarray]
Parts = tuple[np.ndarray, ...]
"""Of a `Transition`."""


class StaleStateError(Exception):
    """This member was asked to go on from a state that it does not have: it is new, or its crew has gone back."""


class WorkerLostError(Exception):
    """A member, or what it gave, is gone."""


class TrainingJob(NamedTuple):
    """What all members must know."""

    settings: CdoSettings
    world: OffloadWorld
    seeds: list[int]
    """S"""
    device: str = "cpu"
    threads: int = 1
    """Of PyTorch, in each member."""

    def loop(self, only: int | None = None) -> Loop:
        seeds = torch.tensor(self.seeds, dtype=torch.int64, device=self.device)
        return make_loop(self.settings, self.world, seeds, self.device, only)


class _Worker:
    """What has a state of a certain term; another term is another attempt to go on from the same state."""

    job: TrainingJob
    loop: Loop

    def __init__(self, only: int | None):
        self.only, self.term = only, -1

    def restore(self, term: int, job: TrainingJob, state: Arrays) -> None:
        """Takes over a state."""
        if self.term < 0:
            torch.set_num_threads(job.threads)
            self.job, self.loop = job, job.loop(self.only)
        self.loop.replay = None
        self.loop.restore(_tensors(state, job.device))
        self.loop.points, self.loop.assessed = [], []
        self.term = term

    def _check(self, term: int) -> None:
        if term != self.term:
            raise StaleStateError("the controller" if self.only is None else f"agent {self.only}")


class Agent(_Worker):
    """One agent of every seed, with its own worlds."""

    def __init__(self, number: int):
        super().__init__(number)
        self.ended = True

    def restore(self, term: int, job: TrainingJob, state: Arrays) -> None:
        super().restore(term, job, state)
        self.ended = True

    def step(self, term: int) -> Parts:
        """Begins a round, having ended the last; what is to be remembered [S, W, ..]."""
        self._check(term)
        self._end()
        self.ended = False
        return _parts(self.loop.step())

    def learn(self, term: int, batch: Parts) -> None:
        """One update from a batch [S, n, ..]."""
        self._check(term)
        self.loop.learn(_transition(batch, self.job.device))

    def learners(self, term: int) -> Arrays:
        """What the updater judges."""
        self._check(term)
        return _arrays(add_prefix("learner", self.loop.learner.tensors()))

    def take(self, term: int, learners: Arrays) -> None:
        """Goes on with these parameters."""
        self._check(term)
        self.loop.learner.restore(strip_prefix("learner", _tensors(learners, self.job.device)))

    def state(self, term: int) -> tuple[Arrays, list[Point]]:
        """Ends the round. All that the agent holds, and the points of its curves since it was last asked."""
        self._check(term)
        self._end()
        points, self.loop.points = self.loop.points, []
        return _arrays(self.loop.tensors()), points

    def assess(self, term: int) -> Point:
        """How the agent does on held-out worlds after this round."""
        self._check(term)
        self.loop.assess()
        return self.loop.assessed.pop()

    def _end(self) -> None:
        if not self.ended:
            self.loop.record_point()
        self.ended = True


class Controller(_Worker):
    """The shared memory of every seed, and the optimal policy updater."""

    def __init__(self):
        super().__init__(None)
        self.fresh: list[Parts] = []

    def restore(self, term: int, job: TrainingJob, state: Arrays) -> None:
        super().restore(term, job, state)
        self.fresh = []

    def exchange(self, term: int, number: int, *records: Parts) -> Any:
        """Takes all agents' records of a round and gives each its batch, None where the round learns nothing."""
        self._check(term)
        record = tuple(np.concatenate(parts, 1) for parts in zip(*records, strict=True))
        self.fresh.append(record)
        self.loop.remember(_transition(record, self.job.device))
        draws = self.loop.settings.batch_numbers(number)
        if not draws:
            return _each([None] * len(records))
        batch = self.loop.sample(draws[0])
        if self.job.settings.form == "places":
            batch = trim_tasks(batch)
        by_agent = [part.unflatten(0, (-1, len(records))).unbind(1) for part in batch]
        return _each([_parts(parts) for parts in zip(*by_agent, strict=True)])

    def broadcast(self, term: int, *learners: Arrays) -> Any:
        """Judges all agents on common worlds; each then has the parameters of its seed's best."""
        self._check(term)
        learner: Any = self.loop.learner
        like = add_prefix("learner", learner.tensors())
        learner.restore(strip_prefix("learner", merge_states([_tensors(part) for part in learners], like)))
        learner.broadcast()
        return _each(
            [_arrays(part) for part in split_state(add_prefix("learner", learner.tensors()), len(learners), like)]
        )

    def new_records(self, term: int) -> list[Parts]:
        """The records since this was last asked."""
        self._check(term)
        fresh, self.fresh = self.fresh, []
        return fresh


class WorkerGroup(Protocol):
    """Members 0 to k - 1 are the agents, k the controller. A member does what it is asked in the order of asking."""

    def call(self, worker: int, what: str, *given: Any, answers: int = 1) -> Any:
        """The promise of a method's result, or as many promises as the result has parts; promises may be given on."""
        ...

    def wait(self, promises: Sequence[Any]) -> list[Any]:
        """Raises:
        Lost: where a member that they need was lost.
        """
        ...


class Recovery(NamedTuple):
    """A loss that was made good."""

    who: str
    round: int
    """That all went back to."""
    rounds: int
    """After that one, which may have been played in part and are played again."""
    age_s: float
    """From their beginning until the loss was noticed."""
    took_s: float
    """From then until the members have played on."""


class Coordinator:
    """Plays a loop of `cdo_dsac.make_loop` on a crew.

    Args:
        told: is told of every loss.
    """

    def __init__(
        self,
        workers: WorkerGroup,
        job: TrainingJob,
        on_recovery: Callable[[Recovery], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.workers, self.job, self.on_recovery, self.clock, self.sleep = workers, job, on_recovery, clock, sleep
        self.agents = range(job.settings.agents)
        self.term, self.placed = 0, False
        self.rounds = 1
        """That are asked for at once."""
        self.recoveries: list[Recovery] = []

    def play(self, loop: Loop) -> None:
        """Some rounds, about `BACKUP_INTERVAL_S` long; the loop is then as if it had played them itself.

        Raises:
            TrainingError: where a lost member is not replaced in time.
        """
        rounds = self._at_once(loop)
        took_s = self._until_done(loop, rounds, lambda: self._play(loop, rounds))
        learner: Any = loop.learner
        if not self._broadcasts(loop, loop.round, learner.sac.updates):
            self.rounds = max(1, min(2 * self.rounds, int(rounds * BACKUP_INTERVAL_S / max(took_s, 1e-6))))
        if loop.settings.assesses(loop.round):
            self._until_done(loop, 0, lambda: self._assess(loop))

    def _until_done(self, loop: Loop, rounds: int, act: Callable[[], None]) -> float:
        """Acts from the loop's state, again after every loss; how long the last time took."""
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

    def _play(self, loop: Loop, rounds: int) -> None:
        *states, new_records = self.workers.wait(self._asked(loop, rounds))
        keep(loop, states, new_records)

    def _assess(self, loop: Loop) -> None:
        loop.assessed.append(_point(self.workers.wait(self._all("assess"))))

    def _at_once(self, loop: Loop) -> int:
        """How many rounds to ask for: what takes long comes last, an assessment, or is alone, a broadcast."""
        most = min(self.rounds, loop.settings.rounds - loop.round)
        learner: Any = loop.learner
        updates = learner.sac.updates
        for count in range(1, most + 1):
            updates += len(loop.settings.batch_numbers(loop.round + count))
            if self._broadcasts(loop, loop.round + count, updates):
                return max(1, count - 1)
            if loop.settings.assesses(loop.round + count):
                return count
        return most

    def _broadcasts(self, loop: Loop, number: int, updates: int) -> bool:
        """Whether the round does, that many updates being done with it."""
        every = self.job.settings.broadcast_every
        return bool(every and loop.settings.batch_numbers(number) and updates % every == 0)

    def _place(self, loop: Loop) -> None:
        """Brings all members to the state of the loop."""
        self.term += 1
        whole = loop.tensors()
        states = [*map(_arrays, split_state(whole, len(self.agents), whole)), _arrays(whole)]
        promises = [self.workers.call(i, "restore", self.term, self.job, state) for i, state in enumerate(states)]
        self.workers.wait(promises)
        self.placed = True

    def _asked(self, loop: Loop, rounds: int) -> list[Any]:
        """Promises of the agents' states and of the controller's news after so many rounds."""
        controller = len(self.agents)
        learner: Any = loop.learner
        updates = learner.sac.updates
        for number in range(loop.round + 1, loop.round + rounds + 1):
            records = self._all("step")
            batches = self.workers.call(controller, "exchange", self.term, number, *records, answers=len(self.agents))
            if loop.settings.batch_numbers(number):
                self._all("learn", batches)
                updates += 1
                if self._broadcasts(loop, number, updates):
                    learners = self._all("learners")
                    best = self.workers.call(controller, "broadcast", self.term, *learners, answers=len(self.agents))
                    self._all("take", best)
        return [*self._all("state"), self.workers.call(controller, "new_records", self.term)]

    def _all(self, what: str, given: Sequence[Any] | None = None) -> list[Any]:
        each = [()] * len(self.agents) if given is None else [(part,) for part in given]
        return [self.workers.call(i, what, self.term, *each[i]) for i in self.agents]


def keep(loop: Loop, states: Sequence[tuple[Arrays, list[Point]]], new_records: Sequence[Parts]) -> None:
    """Puts what the agents have become, and the controller's new records, into the loop of all."""
    loop.restore(merge_states([_tensors(arrays) for arrays, _ in states], loop.tensors()))
    for record in new_records:
        loop.remember(_transition(record, loop.keys.device))
    loop.points += [_point(points) for points in zip(*(points for _, points in states), strict=True)]


def split_state(whole: Mapping[str, Tensor], agents: int, like: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The state of a loop of S * k learners as those of k loops of S learners, without the memory."""
    count = _learners(like)
    parts = [dict[str, Tensor]() for _ in range(agents)]
    for name, tensor in whole.items():
        if name.startswith("replay."):
            continue
        for part, rows in zip(parts, _rows(name, tensor, count, agents), strict=True):
            part[name] = rows
    return parts


def merge_states(parts: Sequence[Mapping[str, Tensor]], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `split_state` took apart; `like` is a state of the loop of all."""
    agents, found = len(parts), dict[str, Tensor]()
    seeds = _learners(like) // agents
    for name, first in parts[0].items():
        if not first.dim() or (name in like and like[name].shape == first.shape):
            found[name] = first
            continue
        copies = len(first) // seeds
        shape = (copies, seeds) if name.startswith("learner.") else (seeds, copies)
        by_agent = [part[name].unflatten(0, shape) for part in parts]
        dim = 2 if name.startswith("learner.") else 1
        found[name] = torch.stack(by_agent, dim).flatten(0, 2)
    return found


def _rows(name: str, tensor: Tensor, count: int, agents: int) -> list[Tensor]:
    """Each agent's part of a tensor of all `count` learners: twins lie outermost, worlds innermost; what does not
    belong to learners is everybody's."""
    if not tensor.dim() or len(tensor) % count or not len(tensor):
        return [tensor] * agents
    copies, seeds = len(tensor) // count, count // agents
    if name.startswith("learner."):
        return [tensor.unflatten(0, (copies, seeds, agents))[:, :, i].flatten(0, 1) for i in range(agents)]
    return [tensor.unflatten(0, (seeds, agents, copies))[:, i].flatten(0, 1) for i in range(agents)]


def _learners(like: Mapping[str, Tensor]) -> int:
    return len(like["learner.mean_reward"])


def _point(points: Sequence[Point]) -> Point:
    """Of all learners, from those of each agent."""
    names = points[0].figures
    figures = {name: np.array([point.figures[name] for point in points]).T.flatten().tolist() for name in names}
    return Point(points[0].round, figures)


def _each(parts: list[Any]) -> Any:
    """As many results as a caller that wants that many unpacks; one is itself."""
    return parts if len(parts) > 1 else parts[0]


def _parts(record: Sequence[Tensor]) -> Parts:
    return tuple(part.detach().cpu().numpy() for part in record)


def _transition(record: Parts, device: Any) -> Transition:
    return Transition(*(torch.tensor(part, device=device) for part in record))


def _arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    return {name: part.detach().cpu().numpy() for name, part in tensors.items()}


def _tensors(arrays: Arrays, device: Any = "cpu") -> dict[str, Tensor]:
    return {name: torch.tensor(part, device=device) for name, part in arrays.items()}

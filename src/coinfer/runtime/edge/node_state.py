"""The state of an edge node's admission, what happens to it (`Event`), and what is to be done (`Command`)."""

from collections.abc import Hashable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from coinfer.physics.batching import ALONE, BatchTimes
from coinfer.runtime.edge.service_times import ServiceTimes
from coinfer.runtime.margin import FIRST_MARGIN
from coinfer.runtime.protocol.messages import DEFAULT_PRIORITY

Reason = Literal["queue_full", "hopeless", "expired", "draining"]


class Job(NamedTuple):
    """A request that waits for a worker or runs on one."""

    id: int
    kind: Hashable
    """Model, inputs and outputs; jobs of one kind take the same time."""
    deadline_s: float
    """On the node's clock; infinite for none."""
    priority: int = DEFAULT_PRIORITY
    """The smallest number is served first."""
    admitted_s: float = 0.0
    """When it began to wait, on the node's clock."""
    forecast_s: float = 0.0
    """How long it was expected to wait then; 0 if nothing is to be learned from it."""
    times: BatchTimes = ALONE
    """How long several jobs of its kind take together."""
    caller: str = ""
    """Whose it is; callers take turns."""


class Running(NamedTuple):
    """A job on a worker."""

    job: Job
    started_s: float
    abandoned: bool = False
    """Nobody waits for it any more; the worker is busy until the current operation ends."""
    first: int | None = None
    """The job with which it runs together; None for the first one, which stands for all."""
    together: int = 1
    """Jobs that run together."""


class Counts(NamedTuple):
    """Counts of jobs since the start.

    received = finished + failed + refused + cancelled + arriving + waiting + running.
    """

    received: int = 0
    finished: int = 0
    failed: int = 0
    refused: int = 0
    cancelled: int = 0


class NodeState(NamedTuple):
    """The whole state of admission: the limits of the node, and every job that has no answer yet."""

    workers: int
    queue: int
    arriving: tuple[Job, ...] = ()
    waiting: tuple[Job, ...] = ()
    running: tuple[Running, ...] = ()
    service: Mapping[Hashable, ServiceTimes] = MappingProxyType({})
    counts: Counts = Counts()
    draining: bool = False
    margin: float = FIRST_MARGIN
    """Factor on forecast waits, so that what is admitted is answered in time."""
    forecasts: bool = True
    """Whether jobs are refused that would be late by their measured times; else the work itself refuses them."""

    @property
    def free_workers(self) -> int:
        """Return how many workers do nothing."""
        return self.workers - sum(run.first is None for run in self.running)


class Arrived(NamedTuple):
    """A new job has come in."""

    job: Job


class Ended(NamedTuple):
    """A worker has finished a job."""

    id: int
    now_s: float
    ok: bool
    too_late: bool = False
    """It was given up because its deadline could not be met any more."""


class Cancelled(NamedTuple):
    """The caller of a job has given up."""

    id: int


class Drained(NamedTuple):
    """The node admits no new job from now on."""


class Admit(NamedTuple):
    """Put a job into the queue."""

    id: int
    now_s: float = 0.0
    forecast_s: float = 0.0
    """How long it is expected to wait; 0 if that is shorter than its service, which says little."""


class Start(NamedTuple):
    """Give a job, or several that run together, to a worker."""

    id: int
    now_s: float
    others: tuple[int, ...] = ()
    """Jobs of the same kind that run with it."""

    @property
    def ids(self) -> tuple[int, ...]:
        """Return all jobs that are started."""
        return (self.id, *self.others)


class Refuse(NamedTuple):
    """Refuse a job, or stop one that runs and whose deadline has passed."""

    id: int
    reason: Reason
    pushback_s: float
    """Seconds until another try is worthwhile."""


Command = Admit | Start | Refuse
Event = Arrived | Ended | Cancelled | Drained | Command

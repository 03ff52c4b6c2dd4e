"""What coordinators of distributed trainings expect of a group of workers, and what they report of losses."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

RECOVERY_TIMEOUT_S = 120.0
"""Seconds after the first loss without a completed step after which the training ends with an error."""
Promise = object
"""A future result: what a group's `call` returns and its `wait` takes."""


class WorkerLostError(Exception):
    """A worker, or a result that it returned, is lost."""


class StaleStateError(Exception):
    """A worker does not have the state to go on from: it is new, or its group has been restored since."""


class WorkerGroup(Protocol):
    """Workers of a distributed training, numbered from 0; each executes its calls in order."""

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

    def first_done(self, promises: Sequence[Promise]) -> int:
        """Wait until a result is there, or lost, and return the place of its promise.

        Args:
            promises: what `call` and `call_parts` returned; at least one.
        """
        ...

    def wait(self, promises: Sequence[Promise]) -> list[Any]:
        """Wait for results and return them, in the order of the promises.

        Args:
            promises: what `call` and `call_parts` returned.

        Returns:
            The results of the methods.

        Raises:
            WorkerLostError: if a worker that a result needs is lost.
        """
        ...


class Recovery(NamedTuple):
    """Loss of a worker that was made good."""

    who: str
    """Name of the lost worker, as far as it is known."""
    round: int
    """Round to whose state all workers were restored."""
    rounds: int
    """Rounds after it that were played again."""
    age_s: float
    """Seconds from the beginning of these rounds until the loss was noticed."""
    took_s: float
    """Seconds from the notice until the workers had played these rounds."""

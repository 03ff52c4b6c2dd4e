"""How many requests a device takes at the same time, and which it refuses."""

import threading
from typing import Literal

from coinfer.errors import UserError

Reason = Literal["queue_full", "hopeless"]


class RefusedError(UserError):
    """A request that the device did not take on; nothing was computed for it.

    Args:
        message: one line for a person.
        reason: one word for a program: too many requests are under way, or its deadline cannot be met behind them.
        pushback_s: seconds after which another try is worthwhile.
    """

    def __init__(self, message: str, reason: Reason, pushback_s: float):
        super().__init__(message)
        self.reason: Reason = reason
        self.pushback_s = pushback_s
        """Seconds after which another try is worthwhile."""


class InFlight:
    """Counts the requests that are under way; any thread may use it.

    Args:
        limit: so many may be under way at the same time.
    """

    def __init__(self, limit: int):
        self.count = 0
        """Requests that are under way."""
        self._limit = limit
        self._lock = threading.Lock()

    def enter(self, pushback_s: float) -> None:
        """Take on a request, whose end `leave` reports.

        Args:
            pushback_s: what a refused caller is told.

        Raises:
            RefusedError: if as many as the limit are under way.
        """
        with self._lock:
            if self.count < self._limit:
                self.count += 1
                return
        text = f"{self._limit} requests are under way, as many as max_in_flight allows; try again in {pushback_s:.3f} s"
        raise RefusedError(text, "queue_full", pushback_s)

    def leave(self) -> None:
        """Report the end of a request."""
        with self._lock:
            self.count -= 1


def check_hopeful(predicted_s: float, deadline_s: float, others: int, pushback_s: float) -> None:
    """Refuse a request that cannot meet its deadline because of others; one that is alone is answered, if late.

    Args:
        predicted_s: latency of the best choice.
        deadline_s: of the request, from now.
        others: requests that are under way beside it.
        pushback_s: what a refused caller is told.

    Raises:
        RefusedError: if the prediction exceeds the deadline and others are under way.
    """
    if others and predicted_s > deadline_s:
        text = f"the answer is expected after {predicted_s:.3f} s, later than its deadline of {deadline_s:.3f} s"
        raise RefusedError(text, "hopeless", pushback_s)

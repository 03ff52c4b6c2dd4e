"""How many requests a device takes at the same time, and which it refuses."""

import math
import threading
from typing import Literal

from coinfer.errors import UserError
from coinfer.physics.radio import upload_s
from coinfer.runtime.device.planning.plan import Plan
from coinfer.runtime.margin import FIRST_MARGIN, SAFETY_FACTOR, after_wait
from coinfer.types import DEVICE

Reason = Literal["queue_full", "hopeless", "expired"]


class RefusedError(UserError):
    """A request that the device did not take on, or gave up as its deadline cannot be met any more.

    Args:
        message: one line for a person.
        reason: one word for a program: too many requests are under way, its deadline cannot be met behind them, or it
            has passed.
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


class Promises:
    """Decides which requests can meet their deadlines, and learns from their waits how far predictions err.

    Any thread may use it.
    """

    def __init__(self) -> None:
        self.margin = FIRST_MARGIN
        """Factor on predicted waits, so that what is admitted is answered in time."""
        self._lock = threading.Lock()

    def check(self, plan: Plan, predicted_s: float, deadline_s: float, pushback_s: float) -> None:
        """Refuse a request that may miss its deadline.

        Args:
            plan: the best choice about it.
            predicted_s: latency to expect.
            deadline_s: of the request, from now.
            pushback_s: what a refused caller is told.

        Raises:
            RefusedError: if it is not sure enough to be in time.
        """
        own_s = min(_own_s(plan), predicted_s)
        needed_s = SAFETY_FACTOR * own_s + self.margin * (predicted_s - own_s)
        if needed_s > deadline_s:
            text = f"the answer is expected after up to {needed_s:.3f} s, later than its deadline of {deadline_s:.3f} s"
            raise RefusedError(text, "hopeless", pushback_s)

    def learn(self, plan: Plan, *, is_kept: bool) -> None:
        """Note the end of a request; a wait that was expected to be shorter than its own work says little.

        Args:
            plan: of the request.
            is_kept: whether it was in time.
        """
        own_s = _own_s(plan)
        if own_s < plan.predicted_s - own_s <= plan.route.deadline_s < math.inf:
            with self._lock:
                self.margin = after_wait(self.margin, 0.0 if is_kept else math.inf)


def check_turn(plan: Plan, expected_s: float, left_s: float, pushback_s: float) -> None:
    """Refuse a request whose turn has come too late; one that was late from the start has its chance.

    Args:
        plan: of the request.
        expected_s: time of what is to be computed now.
        left_s: time until the deadline.
        pushback_s: what a refused caller is told.

    Raises:
        RefusedError: if the deadline has passed, or will have once this is computed.
    """
    if left_s <= 0:
        raise RefusedError("the deadline passed before the processor was free", "expired", pushback_s)
    if expected_s > left_s and plan.predicted_s <= plan.route.deadline_s:
        raise RefusedError("the deadline cannot be met here any more", "hopeless", pushback_s)


def _own_s(plan: Plan) -> float:
    """Return what a request takes if it waits for nothing."""
    o, option = plan.observation, plan.option
    device_s = float(o.option_device_s[0, option])
    if plan.server == DEVICE:
        return device_s
    on_air_s = upload_s(float(o.option_upload_bits[0, option]), float(o.uplink_bps[0, plan.server]))
    return device_s + float(on_air_s) + float(o.option_server_s[0, option, plan.server])

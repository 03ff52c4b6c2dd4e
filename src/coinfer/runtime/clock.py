"""Time as a parameter: the wall clock in service, a virtual clock in tests."""

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """A source of time that callers can also wait on."""

    def now_s(self) -> float:
        """Return the seconds since some fixed moment; it never goes back."""
        ...

    def sleep(self, duration_s: float, cancel: threading.Event | None = None) -> bool:
        """Wait for a time.

        Args:
            duration_s: returns at once if 0 or negative.
            cancel: ends the wait as soon as it is set.

        Returns:
            False if `cancel` was set, else true.
        """
        ...


class WallClock:
    """The machine's monotonic clock."""

    def now_s(self) -> float:
        """Return the seconds of the machine's monotonic clock."""
        return time.monotonic()

    def sleep(self, duration_s: float, cancel: threading.Event | None = None) -> bool:
        """Wait for a time.

        Args:
            duration_s: returns at once if 0 or negative.
            cancel: ends the wait as soon as it is set.

        Returns:
            False if `cancel` was set, else true.
        """
        if cancel is not None:
            return not cancel.wait(max(duration_s, 0.0))
        if duration_s > 0:
            time.sleep(duration_s)
        return True


class VirtualClock:
    """A clock that advances only while a thread sleeps; sleeps of several threads overlap as in real time.

    Args:
        now_s: time at the start.
    """

    def __init__(self, now_s: float = 0.0) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()

    def now_s(self) -> float:
        """Return the virtual time in seconds."""
        return self._now_s

    def sleep(self, duration_s: float, cancel: threading.Event | None = None) -> bool:
        """Advance the clock at once.

        Args:
            duration_s: 0 or negative advances nothing.
            cancel: if it is already set, nothing advances.

        Returns:
            False if `cancel` was set, else true.
        """
        if cancel is not None and cancel.is_set():
            return False
        until_s = self.now_s() + max(duration_s, 0.0)
        with self._lock:
            self._now_s = max(self._now_s, until_s)
        return True

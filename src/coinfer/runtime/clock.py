"""Time as a parameter: the wall clock in service, a virtual one in tests."""

import threading
import time
from typing import Protocol


class Clock(Protocol):
    def now_s(self) -> float:
        """Return the seconds since some fixed moment; it never goes back."""
        ...

    def sleep(self, duration_s: float, cancel: threading.Event | None = None) -> bool:
        """Wait and return true; return false as soon as `cancel` is set."""
        ...


class WallClock:
    """The machine's monotonic clock."""

    def now_s(self) -> float:
        return time.monotonic()

    def sleep(self, duration_s: float, cancel: threading.Event | None = None) -> bool:
        if cancel is not None:
            return not cancel.wait(max(duration_s, 0.0))
        if duration_s > 0:
            time.sleep(duration_s)
        return True


class VirtualClock:
    """A clock that goes on only when someone sleeps; sleepers of several threads overlap as in real time."""

    def __init__(self, now_s: float = 0.0) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()

    def now_s(self) -> float:
        return self._now_s

    def sleep(self, duration_s: float, cancel: threading.Event | None = None) -> bool:
        if cancel is not None and cancel.is_set():
            return False
        until_s = self.now_s() + max(duration_s, 0.0)
        with self._lock:
            self._now_s = max(self._now_s, until_s)
        return True

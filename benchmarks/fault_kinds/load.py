"""The load generator of all kinds: requests at a steady rate, whatever becomes of earlier ones (open loop).

Latency counts from the moment when a request was due, so a generator that falls behind hides nothing.
"""

import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from coinfer.units import MILLI

ANSWERED, FULL = "answered", "queue_full"
THREADS = 96
RETRY_S, PATIENCE_S = 0.05, 60.0
"""A caller that is told to come again does so after this time, for so long at most."""


class Answer(NamedTuple):
    """What a target says of one request."""

    what: str
    """`answered`, or in one word why not."""
    node: str = ""
    """Which node computed the answer."""
    fallback: str = ""
    """Nodes that were asked in vain, and why."""
    queue_s: float = 0.0
    """How long it waited at the target, as this says."""
    details: str = ""
    """What else the target says of a request without an answer."""


Ask = Callable[[int, float], Answer]
"""Makes the request of some number with a deadline in seconds, and waits for its end. It raises nothing."""


class Ended(NamedTuple):
    """A request and its end, on the monotonic clock."""

    due_s: float
    took_s: float
    answer: Answer

    refusals: int = 0
    """How many times it was told to come again."""

    @property
    def done_s(self) -> float:
        return self.due_s + self.took_s


class OpenLoad:
    """Asks at a rate that may change, from threads of its own, until it is stopped.

    Args:
        ask: makes a request.
        rate: requests per second.
        deadline_s: of each.
        retry: ask again where a full queue says so; that takes time, but loses nothing.
        threads: requests that may be open; one more waits, which counts in its latency.
    """

    def __init__(
        self, ask: Ask, rate: float, deadline_s: float = math.inf, *, retry: bool = False, threads: int = THREADS
    ):
        self.rate = rate
        self.ended: list[Ended] = []
        """In the order of their ends."""
        self._ask, self._deadline_s, self._retry = ask, deadline_s, retry
        self._due: queue.SimpleQueue[tuple[int, float] | None] = queue.SimpleQueue()
        self._over = threading.Event()
        self.sent = 0
        """Requests that were due so far."""
        self._workers = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        self._clock = threading.Thread(target=self._tick, daemon=True)
        for thread in (*self._workers, self._clock):
            thread.start()

    def stop(self) -> list[Ended]:
        """Ask no more, wait for what is open, and return all that has ended."""
        self._over.set()
        self._clock.join()
        for _ in self._workers:
            self._due.put(None)
        for thread in self._workers:
            thread.join()
        assert len(self.ended) == self.sent, "every request ends"
        return self.ended

    def _tick(self) -> None:
        due_s = time.monotonic()
        while not self._over.is_set():
            self._due.put((self.sent, due_s))
            self.sent += 1
            due_s += 1 / self.rate
            if (ahead_s := due_s - time.monotonic()) > 0:
                self._over.wait(ahead_s)

    def _work(self) -> None:
        while (due := self._due.get()) is not None:
            request, due_s = due
            answer, refusals = self._ask(request, self._deadline_s), 0
            while self._retry and answer.what == FULL and time.monotonic() < due_s + PATIENCE_S:
                time.sleep(RETRY_S)
                answer, refusals = self._ask(request, self._deadline_s), refusals + 1
            self.ended.append(Ended(due_s, time.monotonic() - due_s, answer, refusals))


def capacity(ask: Ask, seconds: float, at_once: int = 3) -> float:
    """Return answers per second with always a few requests open (closed loop)."""
    until_s = time.monotonic() + seconds
    done_s: list[float] = []

    def work() -> None:
        while not done_s or time.monotonic() < until_s:
            if ask(0, math.inf).what == ANSWERED:
                done_s.append(time.monotonic())

    threads = [threading.Thread(target=work) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done_s.sort()
    return (len(done_s) - 1) / max(done_s[-1] - done_s[0], 1e-3)


def lost(ended: Sequence[Ended]) -> dict[str, int]:
    """Return how many requests had no answer, by what they got instead."""
    kinds = [f"{one.answer.what} {one.answer.details}".strip() for one in ended if one.answer.what != ANSWERED]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def quantile_ms(took_s: Sequence[float], share: float) -> float | None:
    """Return a quantile in milliseconds; None of nothing."""
    return round(float(np.quantile(took_s, share)) / MILLI, 1) if len(took_s) else None

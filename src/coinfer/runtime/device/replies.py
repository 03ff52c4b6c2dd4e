"""What a request has asked of servers: the first answer counts, whoever it comes from."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from coinfer.runtime.clock import Clock
from coinfer.runtime.device.exchange import Answer, Failure, PendingRequest
from coinfer.runtime.device.request_client import RequestClient


class Reply(NamedTuple):
    """The answer of a server."""

    answer: Answer
    server: int
    """Index of the one that computed it, the last of several."""
    waited_s: float
    """Time that was spent on other servers before this one was asked."""


class Replies:
    """The replies that one request waits for; used by one thread.

    Args:
        client: reads replies.
        clock: the device's.
        on_abort: registers what stops the request's work once it is aborted.
    """

    def __init__(self, client: RequestClient, clock: Clock, on_abort: Callable[[Callable[[], object]], None]):
        self.pending: list[PendingRequest] = []
        """Requests that may still be answered, the newest last."""
        self.sent_bits = 0.0
        """Of all messages so far."""
        self._client, self._clock, self._on_abort = client, clock, on_abort
        self._began_s: float | None = None
        self._failed: list[tuple[PendingRequest, Failure]] = []

    @property
    def failures(self) -> list[Failure]:
        """Return what went wrong with the servers that were asked, in the order in which it did."""
        return [failure for _, failure in self._failed]

    @property
    def has_asked(self) -> bool:
        """Return true once a server was asked."""
        return self._began_s is not None

    @property
    def waited_s(self) -> float:
        """Return the time since the first server was asked; 0 if none was."""
        return 0.0 if self._began_s is None else self._clock.now_s() - self._began_s

    def add(self, pending: PendingRequest) -> None:
        """Wait for one more reply.

        Args:
            pending: of a server; what an abort cancels too.
        """
        self._began_s = pending.at_s if self._began_s is None else self._began_s
        self.sent_bits += pending.size_bits
        self.pending.append(pending)
        self._on_abort(pending.reply.cancel)

    def first(self, timeout_s: float | None = None, local: Future[Any] | None = None) -> Reply | None:
        """Return the first answer of a server; then no other reply is waited for.

        Args:
            timeout_s: longest wait; None has no end.
            local: what the device computes meanwhile.

        Returns:
            None once no server is left, the time is over, or `local` is done.
        """
        if not self.pending:
            return None
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        changed = threading.Event()
        for future in [*(pending.reply for pending in self.pending), *([local] if local else [])]:
            future.add_done_callback(lambda _: changed.set())  # also of one that is cancelled, unlike `futures.wait`
        while self.pending:
            in_time = changed.wait(None if until_s is None else max(until_s - time.monotonic(), 0.0))
            changed.clear()
            for pending in [one for one in self.pending if one.reply.done()]:
                self.pending.remove(pending)
                reply = self._client.read(pending)
                if isinstance(reply, Answer):
                    return self._answered(pending, reply)
                self._fail(pending, reply)
            if not in_time or (local is not None and local.done()):
                return None
        return None

    def note_late(self) -> None:
        """Note the servers that have not answered so far; they may still do so."""
        known = [pending for pending, _ in self._failed]
        for pending in self.pending:
            if not any(pending is one for one in known):
                waited_s = self._clock.now_s() - pending.at_s
                address = self._client.pool.addresses[pending.server]
                self._fail(pending, Failure(address, f"no reply after {waited_s:.3f} s"))

    def cancel(self) -> None:
        """Wait for no reply any more; who has not answered was asked in vain."""
        self.note_late()
        for pending in self.pending:
            pending.reply.cancel()
        self.pending.clear()

    def _answered(self, pending: PendingRequest, answer: Answer) -> Reply:
        assert self._began_s is not None
        self.cancel()
        self._failed = [one for one in self._failed if one[0] is not pending]
        return Reply(answer, pending.answers, pending.at_s - self._began_s)

    def _fail(self, pending: PendingRequest, failure: Failure) -> None:
        self._failed = [*(one for one in self._failed if one[0] is not pending), (pending, failure)]

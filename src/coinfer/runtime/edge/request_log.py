"""Counts every request of a service, and turns what goes wrong into the error that its caller gets."""

import asyncio
import logging
import secrets
import traceback
from collections.abc import Awaitable, Callable, Collection

from coinfer.errors import UserError, short_repr
from coinfer.runtime.clock import Clock
from coinfer.runtime.edge.inference_service import Encode, Encoded
from coinfer.runtime.edge.metrics import Metrics, ModelStats, Timing
from coinfer.runtime.executor import InputError
from coinfer.runtime.protocol.messages import InferReply, InferRequest, WireError
from coinfer.runtime.tracing import Span, begin

MAX_TRACEBACKS = 64
_log = logging.getLogger("coinfer.edge")


class RequestLog:
    """Keeps the books of a service.

    Args:
        models: names of its models; may change later.
        clock: durations are on it.
    """

    def __init__(self, models: Collection[str], clock: Clock):
        self.metrics = Metrics({name: ModelStats() for name in models})
        self._names = models
        self._clock = clock
        self._logged_bugs: set[tuple[str, str, int | None]] = set()

    async def answer(
        self,
        request: InferRequest,
        serve: Callable[[InferRequest, float], Awaitable[tuple[InferReply, Timing]]],
        encode: Encode[Encoded],
    ) -> Encoded:
        """Return what `encode` makes of the reply of `serve`, and count the request.

        Args:
            request: from any client.
            serve: gets the request and the moment when it arrived.
            encode: makes the form in which the reply is sent.

        Raises:
            WireError: for every failure; only cancellation passes through as it is.
        """
        began_s = self._clock.now_s()
        model = request.model if request.model in self._names else ""
        stats = self.metrics.count_arrival(model)
        span = begin("request", model)
        try:
            reply, timing = await serve(request, began_s)
            encoded = await encode(reply)
        except asyncio.CancelledError:
            self.metrics.count_failure(stats, None, self._clock.now_s() - began_s)
            _end(span, "cancelled")
            raise
        except Exception as problem:
            error = self._as_wire_error(problem, request)
            self.metrics.count_failure(stats, error, self._clock.now_s() - began_s)
            _end(span, error.code)
            raise error from None
        self.metrics.count_success(model, self._clock.now_s() - began_s, timing)
        if span is not None:
            span.steps(timing.steps())
            span.end()
        return encoded

    def _as_wire_error(self, problem: Exception, request: InferRequest) -> WireError:
        """Return the error that the caller gets: never a traceback, a path or a value of ours."""
        if isinstance(problem, WireError) and problem.reason != "too_large":
            return problem
        id = short_repr(request.id)[1:-1] if request.id else secrets.token_hex(4)
        match problem:
            case WireError():
                _log.warning("request %s to %s: %s", id, short_repr(request.model), problem.message)
                return problem
            case InputError():
                _log.warning("request %s to %s: %s", id, short_repr(request.model), problem)
                return WireError("INVALID_ARGUMENT", str(problem), "invalid")
            case UserError():
                return WireError("INVALID_ARGUMENT", str(problem), "invalid")
            case _:
                self._log_bug(id, problem)
                return WireError("INTERNAL", f"internal error; see the node's log for request {id}", "bug")

    def _log_bug(self, id: str, problem: Exception) -> None:
        """Log one line for each bug, and a traceback for the first of its kind, so that no client can fill the log."""
        last = traceback.extract_tb(problem.__traceback__)[-1]
        kind = (type(problem).__name__, last.filename, last.lineno)
        is_new = kind not in self._logged_bugs and len(self._logged_bugs) < MAX_TRACEBACKS
        self._logged_bugs |= {kind}
        problem_shown = short_repr(str(problem), 200)[1:-1]
        _log.error("request %s failed: %s: %s", id, kind[0], problem_shown, exc_info=problem if is_new else None)


def _end(span: Span | None, problem: str) -> None:
    if span is not None:
        span.end(problem)

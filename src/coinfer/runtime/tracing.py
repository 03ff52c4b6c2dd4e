"""Traces of requests: W3C `traceparent` and `tracestate` are carried through every node, and told to a tracer if any.

The trace that the present thread or task works for is in context variables. It is carried on as it came where nothing
traces; a tracer (`open_telemetry`) gives each node's work a span of its own. `tracestate` is passed on as it came.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

HEADER, STATE_HEADER = "traceparent", "tracestate"
_FORM = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_STATE_FORM = re.compile(r"[\x20-\x7e]{1,512}")
_current: ContextVar[str] = ContextVar("coinfer_traceparent", default="")
_state: ContextVar[str] = ContextVar("coinfer_tracestate", default="")
Step = tuple[str, float]
"""Name and seconds."""
Answer = TypeVar("Answer")


class Span(Protocol):
    """What one node does for one request."""

    @property
    def traceparent(self) -> str:
        """Return what the nodes that it asks are to be told."""
        ...

    def steps(self, steps: Iterable[Step]) -> None:
        """Add steps that followed one another, from the beginning of this span on.

        Args:
            steps: in their order; those of no time are left out.
        """
        ...

    def end(self, problem: str = "") -> None:
        """End it; called once.

        Args:
            problem: why it failed; empty if it did not.
        """
        ...


class Tracer(Protocol):
    """Makes spans."""

    def begin(self, name: str, parent: str, began_ns: int, model: str) -> Span:
        """Return a span that has begun.

        Args:
            name: of what is done.
            parent: `traceparent` of the caller; empty for a new trace.
            began_ns: nanoseconds since 1970.
            model: name of the network.
        """
        ...


_tracer: Tracer | None = None


def use_tracer(tracer: Tracer | None) -> None:
    """Tell all spans of this process to a tracer from now on.

    Args:
        tracer: None for none.
    """
    global _tracer
    _tracer = tracer


def current() -> str:
    """Return the `traceparent` of the trace that this thread or task works for; empty without one."""
    return _current.get()


def headers() -> tuple[tuple[str, str], ...]:
    """Return what a request to another node says of the present trace: names and values."""
    traceparent, state = _current.get(), _state.get()
    own = ((HEADER, traceparent), (STATE_HEADER, state))
    return own[: 1 + bool(state)] if traceparent else ()


def receive(headers: Iterable[tuple[str, str | bytes]] | None) -> None:
    """Work for the trace that a caller names from now on, in this task.

    Args:
        headers: names in lower case, with values; what is no valid `traceparent` counts as none.
    """
    told = dict(headers or ())
    found, state = told.get(HEADER, ""), told.get(STATE_HEADER, "")
    is_traced = isinstance(found, str) and _FORM.fullmatch(found)
    _current.set(str(found) if is_traced else "")
    _state.set(state if is_traced and isinstance(state, str) and _STATE_FORM.fullmatch(state) else "")


@contextmanager
def trace_context(traceparent: str, tracestate: str = "") -> Iterator[None]:
    """Work for a trace within a `with` block.

    Args:
        traceparent: of the trace, as W3C writes it; empty for none.
        tracestate: that others have added to it.
    """
    tokens = _current.set(traceparent), _state.set(tracestate)
    try:
        yield
    finally:
        _current.reset(tokens[0])
        _state.reset(tokens[1])


def begin(name: str, model: str, ago_s: float = 0.0) -> Span | None:
    """Return a span of the present trace, or of a new one, for which this task works from now on; None if none traces.

    Args:
        name: of what is done.
        model: name of the network.
        ago_s: it began so long ago.
    """
    if _tracer is None:
        return None
    span = _tracer.begin(name, _current.get(), time.time_ns() - int(ago_s * 1e9), model)
    _current.set(span.traceparent)
    return span


def traced(
    name: str, model: str, ago_s: float, work: Callable[[], Answer], steps: Callable[[Answer], Iterable[Step]]
) -> Answer:
    """Return what `work` returns, and tell a span of it.

    Args:
        name: of what is done.
        model: name of the network.
        ago_s: it began so long ago.
        work: for the trace of the present thread.
        steps: the steps of an answer.
    """
    if _tracer is None:
        return work()
    with trace_context(_current.get(), _state.get()):
        span = begin(name, model, ago_s)
        assert span is not None
        try:
            answer = work()
            span.steps(steps(answer))
        except BaseException as error:
            span.end(f"{type(error).__name__}: {error}"[:200])
            raise
        span.end()
        return answer


def tell(name: str, model: str, traceparent: str, took_s: float) -> None:
    """Tell a span that has ended just now.

    Args:
        name: of what was done.
        model: name of the network.
        traceparent: of the trace that it belongs to; without a valid one nothing is told.
        took_s: it began so long ago.
    """
    if _tracer is not None and _FORM.fullmatch(traceparent):
        _tracer.begin(name, traceparent, time.time_ns() - int(took_s * 1e9), model).end()

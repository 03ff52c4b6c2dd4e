"""Opening pieces of networks for requests, off the workers, each once for all who ask for it meanwhile."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from coinfer.options.table import Names
from coinfer.runtime.clock import Clock
from coinfer.runtime.edge.served_model import ServedModel
from coinfer.runtime.protocol.messages import WireError

MAX_PENDING_PIECES = 8
"""Pieces of networks that may wait to be opened; it limits a client that asks for one new cut after the other."""


class Pending(NamedTuple):
    """A piece that is being opened, or waits for its turn."""

    model: str
    inputs: Names
    outputs: Names
    left_s: float
    """Until it is open once it is its turn, as far as that is known."""
    has_begun: bool
    deadlines_s: tuple[float, ...]
    """Of the requests that wait for it, on the clock; infinite for none."""


@dataclass
class _Opening:
    """A piece that is being opened; it stays in memory until all who wait for it keep it."""

    done: asyncio.Future[None]
    load_s: float
    """Expected; 0 if that is not known."""
    begun_s: list[float]
    """When its turn came, on the clock; empty before."""
    release: Callable[[], None]
    deadlines_s: list[float] = field(default_factory=list[float])
    """Of the requests that wait for it."""
    is_over: bool = False


class Openings:
    """The pieces that are being opened, one at a time. Its callers live on one event loop.

    Args:
        clock: deadlines are on it.
    """

    def __init__(self, clock: Clock):
        self._clock = clock
        self._pool = ThreadPoolExecutor(1, "coinfer-opener")
        self._opening: dict[tuple[str, str, Names, Names], _Opening] = {}

    def close(self) -> None:
        """Open no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def pending(self) -> list[Pending]:
        """Return the pieces that are being opened, in the order in which they were asked for."""
        now_s, found = self._clock.now_s(), list[Pending]()
        for (model, _, inputs, outputs), one in self._opening.items():
            left_s = one.load_s - (now_s - one.begun_s[0] if one.begun_s else 0.0)
            waits = bool(one.begun_s), tuple(one.deadlines_s)
            found.append(Pending(model, inputs, outputs, max(left_s, 0.0), *waits))
        return found

    async def hold(self, model: ServedModel, inputs: Names, outputs: Names, deadline_s: float) -> float:
        """Keep a piece in memory until it is released; open it first where it has to be, once for all who ask.

        It is opened off the workers, so that requests in the queue do not wait for it too.

        Args:
            model: that has the piece.
            inputs: names of the tensors that a request brings.
            outputs: names of the tensors to compute; empty for the network's outputs.
            deadline_s: of the request, on the clock; infinite for none.

        Returns:
            The seconds that this took.

        Raises:
            WireError: if too many are being opened, or the deadline would pass meanwhile.
            RequestError: if the outputs do not follow from the inputs.
        """
        if model.runs.hold(inputs, outputs):
            return 0.0
        began_s = self._clock.now_s()
        opening = self._begun(model, inputs, outputs, deadline_s)
        opening.deadlines_s.append(deadline_s)
        try:
            await asyncio.shield(opening.done)
            model.runs.hold(inputs, outputs)
        finally:
            opening.deadlines_s.remove(deadline_s)
            self._end(opening)
        return self._clock.now_s() - began_s

    def _begun(self, model: ServedModel, inputs: Names, outputs: Names, deadline_s: float) -> _Opening:
        """Return the opening of a piece that is under way, or begin it; not in vain, as far as its time is known."""
        key = model.name, model.fingerprint, inputs, outputs
        opening = self._opening.get(key)
        if opening is not None:
            return opening
        if len(self._opening) >= MAX_PENDING_PIECES:
            raise WireError("RESOURCE_EXHAUSTED", "too many new cuts are being opened; try later", "queue_full", 1.0)
        load_s = model.runs.cold().get((inputs, outputs or tuple(output.name for output in model.outputs)), 0.0)
        before_s = sum(other.load_s for other in self._opening.values())
        if load_s and self._clock.now_s() + before_s + load_s > deadline_s:
            text = f"the deadline passes before the piece is in memory, which takes {before_s + load_s:.2g} s"
            raise WireError("DEADLINE_EXCEEDED", text, "hopeless")
        begun_s: list[float] = []

        def open_() -> None:
            begun_s.append(self._clock.now_s())
            model.runs.prepare(inputs, outputs, hold=True)

        done = asyncio.get_running_loop().run_in_executor(self._pool, open_)
        opening = self._opening[key] = _Opening(done, load_s, begun_s, partial(model.runs.release, inputs, outputs))

        def forget(_: asyncio.Future[None]) -> None:
            del self._opening[key]
            self._end(opening)

        done.add_done_callback(forget)
        return opening

    @staticmethod
    def _end(opening: _Opening) -> None:
        """Let a piece go once all who waited for it keep it themselves."""
        if opening.done.done() and not opening.deadlines_s and not opening.is_over:
            opening.is_over = True
            if not opening.done.cancelled() and opening.done.exception() is None:
                opening.release()

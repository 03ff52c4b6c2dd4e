"""What a device answers, and what it keeps of a request on the way."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from coinfer.records import Record
from coinfer.runtime.device.objective import Limit
from coinfer.types import OffloadObservation, Outcome, Route


class Result(NamedTuple):
    """The answer to one request."""

    outputs: dict[str, np.ndarray]
    outcome: Outcome
    """The timing split, seconds; `outcome.latency_s` is the sum of its parts."""
    route: Route
    """What was decided first."""
    executed_on: str
    """`device`, or the address of the server that answered."""
    fallback: str
    """What went wrong with the servers asked before, if anything."""
    predicted_s: float
    """Latency that was expected of a request that takes this way."""
    sent_bits: float
    """All bits of messages sent for it, lost ones included."""
    exit: int
    """Index of the exit that answered: the route's, or an earlier one that was sure."""
    unmet: tuple[Limit, ...]
    """The limits that it missed: by its measured latency, expected accuracy, and metered energy."""

    @property
    def output(self) -> np.ndarray:
        """The first output."""
        return next(iter(self.outputs.values()))

    def record(self, scheme: str, request: int, at_s: float, link_bps: float) -> Record:
        """What the run log keeps of it."""
        kept = {name: getattr(self, name) for name in self._fields if name != "outputs"}
        return Record(scheme=scheme, request=request, at_s=at_s, link_bps=link_bps, **kept)


class Task(NamedTuple):
    """A request on its way."""

    tensors: Mapping[str, np.ndarray]
    pixels: np.ndarray | None
    began_s: float
    deadline_s: float
    observation: OffloadObservation
    route: Route
    option: int
    predicted_s: float

    @property
    def cut(self) -> tuple[str, ...]:
        """What leaves the device."""
        return self.route.hops[0].cut

    @property
    def outputs(self) -> tuple[str, ...]:
        """What answers."""
        return self.route.hops[-1].cut

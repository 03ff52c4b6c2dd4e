"""What a device answers."""

from typing import NamedTuple

import numpy as np

from coinfer.records import Record
from coinfer.runtime.device.objective import Limit
from coinfer.types import Outcome, Route


class Result(NamedTuple):
    """The answer to one request."""

    outputs: dict[str, np.ndarray]
    outcome: Outcome
    """The times in seconds; `outcome.latency_s` is the sum of its parts."""
    route: Route
    """What was decided first."""
    executed_on: str
    """`device`, or the address of the server that answered."""
    fallback: str
    """What went wrong with the servers that were asked in vain, whoever answered in the end; empty if nothing did."""
    predicted_s: float
    """Latency that was expected of a request that takes this route."""
    sent_bits: float
    """All bits of messages sent for it, lost ones included."""
    exit: int
    """Index of the exit that answered: the route's, or an earlier one that was confident."""
    unmet: tuple[Limit, ...]
    """The limits that it missed: by its measured latency, expected accuracy, and metered energy."""

    @property
    def output(self) -> np.ndarray:
        """The first output."""
        return next(iter(self.outputs.values()))

    def record(self, scheme: str, request: int, at_s: float, link_bps: float) -> Record:
        """Return what the run log keeps of it; see `Record` for the arguments."""
        kept = {name: getattr(self, name) for name in self._fields if name != "outputs"}
        return Record(scheme=scheme, request=request, at_s=at_s, link_bps=link_bps, **kept)

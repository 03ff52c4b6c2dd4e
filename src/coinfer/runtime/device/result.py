"""The result of a request."""

from typing import NamedTuple

import numpy as np

from coinfer.records import Record
from coinfer.runtime.device.objective import Limit
from coinfer.types import Outcome, Route


class Result(NamedTuple):
    """The answer to one request, with the times that it took."""

    outputs: dict[str, np.ndarray]
    outcome: Outcome
    """The times in seconds; `outcome.latency_s` is the sum of its parts."""
    route: Route
    """The route that was planned at the start."""
    executed_on: str
    """`device`, or the address of the server that answered."""
    fallback: str
    """What went wrong with servers that were asked in vain, even if another answered in the end; else empty."""
    predicted_s: float
    """Latency that was predicted for this route."""
    sent_bits: float
    """All bits of messages sent for it, lost ones included."""
    exit: int
    """Index of the exit that answered: the route's, or an earlier one that was confident."""
    unmet: tuple[Limit, ...]
    """The limits that it missed: by its measured latency, expected accuracy, and metered energy."""
    wait_s: float = 0.0
    """Part of `outcome.device_s` in which it waited for the device's processor."""

    @property
    def output(self) -> np.ndarray:
        """Return the first output."""
        return next(iter(self.outputs.values()))

    def steps(self) -> list[tuple[str, float]]:
        """Return the steps of the request in their order, with their seconds."""
        times = self.outcome
        there_s = times.queue_s + times.server_s
        return [
            ("compute", times.device_s),
            ("upload", times.upload_s),
            ("forward", there_s),
            ("download", times.download_s),
        ]

    def record(self, scheme: str, request: int, at_s: float, link_bps: float) -> Record:
        """Return what the run log stores of this result: all but the outputs and its wait here.

        Args:
            scheme: name of the policy that decided.
            request: number of the request in its run.
            at_s: when it was made, from the start of the run.
            link_bps: rate of the chosen server's link then; 0 if the request stayed on the device.
        """
        fields = {name: getattr(self, name) for name in self._fields if name not in ("outputs", "wait_s")}
        return Record(scheme=scheme, request=request, at_s=at_s, link_bps=link_bps, **fields)

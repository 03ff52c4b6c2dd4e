"""A request to a server, and what comes of it."""

import math
import threading
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np

from coinfer.runtime.device import estimate as est
from coinfer.runtime.device.planning.plan import SeveralHops
from coinfer.runtime.protocol.messages import InferReply


class Answer(NamedTuple):
    """The outputs and their times. If the device answers, `upload_s` is the time that it waited for servers in vain."""

    outputs: dict[str, np.ndarray]
    upload_s: float = 0.0
    queue_s: float = 0.0
    server_s: float = 0.0
    download_s: float = 0.0


class Failure(NamedTuple):
    """Why a server that was asked did not answer."""

    address: str
    problem: str
    is_refusal: bool = False
    """True if its admission control refused the request."""
    is_next_hop: bool = False
    """True if it did its part, and the next server did not."""

    def __str__(self) -> str:
        return f"{self.address}: {self.problem}"


class PendingRequest(NamedTuple):
    """A request that a server has not answered yet."""

    server: int
    work: est.Work
    """What the server is to compute."""
    size_bits: float
    at_s: float
    """When it was sent."""
    link_wait_s: float
    """Expected wait for transfers before it."""
    expected_s: float
    """Expected time until the reply; infinite if nothing is learned from it."""
    reply: Future[InferReply]
    profiled_s: float = 0.0
    """Time of the profiled machine for the work; 0 if nothing is learned from the reply."""
    upload_bits: float = math.inf
    """Upload that the planner expected of the option; infinite if nothing is learned from the reply."""
    deadline_s: float = math.inf
    """Of the server, from when it was sent."""
    update_done: threading.Event | None = None
    """Set once the estimates are updated from the reply; None if nothing is learned from it."""
    several: SeveralHops | None = None
    """What this server and others after it are to do; None if it answers itself."""

    @property
    def answers(self) -> int:
        """Return the index of the server that computes the answer."""
        return self.server if self.several is None else self.several.parts[-1].server

"""The parts of a device that all its requests share."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.runtime.clock import Clock
from coinfer.runtime.device import forecast
from coinfer.runtime.device.admission import Promises
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.planning.plan import DeviceState, Plan
from coinfer.runtime.device.planning.planner import Planner
from coinfer.runtime.device.planning.sized import Sizes
from coinfer.runtime.device.processor import Processor
from coinfer.runtime.device.request_client import MIN_PUSHBACK_S, RequestClient
from coinfer.runtime.device.result import Result
from coinfer.types import Policy


class DeviceParts(NamedTuple):
    """The parts that all requests of a device share."""

    graph: ModelGraph
    config: DeviceConfig
    planner: Planner
    processor: Processor
    client: RequestClient
    clock: Clock
    promises: Promises
    """Of all its requests: how far predicted waits err."""
    record: Callable[[Plan, Result], None] = lambda plan, result: None
    """Called with every request that was answered."""
    site_policy: Callable[[], Policy[np.ndarray] | None] = lambda: None
    """Returns what decides about a request that brings neither policy nor objective; None for the device's own."""

    better: Callable[[Plan, DeviceState], Plan] = lambda plan, state: plan
    """Returns a plan over several servers in place of one with at most one, if it is predicted to be better."""

    def pushback_s(self) -> float:
        """Return after how many seconds a request that is refused now may be taken on: when somebody is free."""
        now_s = self.clock.now_s()
        waits_s = [forecast.server_wait_s(server, now_s) for server in self.client.pool.estimates()]
        return max(min([self.processor.backlog_s, *waits_s]), MIN_PUSHBACK_S)

    def state(self, sizes: Sizes = ()) -> DeviceState:
        """Return what the device believes now.

        Args:
            sizes: of the request that is planned.
        """
        now_s, servers = self.clock.now_s(), self.client.pool.estimates()
        return DeviceState(now_s, servers, self.processor.scale_at(sizes), self.processor.wait_s())

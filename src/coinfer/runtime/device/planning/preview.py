"""The choice at any link rate, before anything runs."""

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from coinfer.options.table import Options
from coinfer.partition.hull import Hull
from coinfer.runtime.device.objective import Limit, Objective
from coinfer.runtime.device.planning.objective_policy import choose, device_energy_j
from coinfer.runtime.device.planning.observation import feasible_latency_s
from coinfer.types import OffloadObservation

RATES_BPS = np.geomspace(1e3, 1e11, 2000)
"""Rates at which choices are compared; between two that differ, bisection finds the border."""
_ROUNDS = 40


class Preview:
    """The choices of one request on a device with one idle server.

    Args:
        options: with times as they are on device and server.
        objective: goal and limits.
        deadline_s: of the request; infinite if it has none.
        as_jpeg: pictures are sent as JPEG, and are then not quite what they were.
    """

    def __init__(self, options: Options, objective: Objective, deadline_s: float = math.inf, *, as_jpeg: bool = False):
        self.options = options
        self.as_jpeg = as_jpeg
        self.objective = objective
        self.deadline_s = deadline_s

    @property
    def has_exits(self) -> bool:
        """Return true if the options end at more than one exit."""
        return bool(self.options.exit.max() > 0)

    def best(self, rate_bps: float, among: np.ndarray | None = None) -> int:
        """Return the index of the option that is chosen at a link rate.

        Args:
            rate_bps: above 0.
            among: bool [O], the options to choose from; None takes all.
        """
        return int(self._choices(np.array([rate_bps]), among)[0])

    def ranges(self) -> Iterator[tuple[float, float, int]]:
        """Yield lowest rate, highest rate (bit/s) and option of each range of rates, from 0 to infinity."""
        if not self.has_exits and self.objective == Objective() and math.isinf(self.deadline_s):
            hull = Hull.build(self.options.device_s + self.options.server_s[:, 0], self.options.upload_bits)
            edges_bps, options = hull.threshold_bps.tolist(), hull.options.tolist()
        else:
            edges_bps, options = self._searched()
        for (low_bps, high_bps), option in zip(pairwise([0.0, *edges_bps, math.inf]), options, strict=True):
            yield low_bps, high_bps, option

    def energy_j(self, option: int, rate_bps: float) -> float:
        """Return the energy that an option takes from the device.

        Args:
            option: index of the option.
            rate_bps: of the link, above 0.
        """
        column = 0 if self.options.upload_bits[option] else 1
        return float(device_energy_j(self.objective, self._observation(np.array([rate_bps])))[0, option, column])

    def unmet(self, option: int, rate_bps: float) -> tuple[Limit, ...]:
        """Return the limits that an option misses, in the order of `LIMITS`.

        Args:
            option: index of the option.
            rate_bps: of the link, above 0.
        """
        latency_s = feasible_latency_s(self._observation(np.array([rate_bps])))[0, option].min()
        energy_j = self.energy_j(option, rate_bps)
        return self.objective.unmet(float(latency_s), self.deadline_s, float(self.options.accuracy[option]), energy_j)

    def _searched(self) -> tuple[list[float], list[int]]:
        """Return the rates at which the choice changes, and the choices between them."""
        choices = self._choices(RATES_BPS)
        changes = np.flatnonzero(np.diff(choices))
        low, high = RATES_BPS[changes], RATES_BPS[changes + 1]
        for _ in range(_ROUNDS if len(changes) else 0):
            middle = np.sqrt(low * high)
            before = self._choices(middle) == choices[changes]
            low, high = np.where(before, middle, low), np.where(before, high, middle)
        return high.tolist(), [*choices[changes].tolist(), int(choices[-1])]

    def _choices(self, rates_bps: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
        observation = self._observation(rates_bps)
        if among is not None:
            observation = observation._replace(option_mask=np.broadcast_to(among, observation.option_mask.shape))
        return np.asarray(choose(self.objective, observation).option)

    def _observation(self, rates_bps: np.ndarray) -> OffloadObservation[np.ndarray]:
        """Return one task for each rate, K of them."""
        tasks, options = len(rates_bps), self.options

        def each(values: np.ndarray) -> np.ndarray:
            return np.broadcast_to(values, (tasks, *values.shape))

        return OffloadObservation(
            option_device_s=each(options.device_s),
            option_upload_bits=each(options.upload_bits),
            option_server_s=each(options.server_s),
            option_accuracy=each(options.accuracy),
            option_device_j=each(options.device_s * self.objective.power_w),
            option_mask=np.ones((tasks, len(options.bits)), dtype=bool),
            task_mask=np.ones(tasks, dtype=bool),
            deadline_s=np.full(tasks, self.deadline_s),
            uplink_bps=rates_bps[:, None],
            device_backlog_s=np.zeros(tasks),
            server_backlog_s=np.zeros(1),
            server_room=np.ones(1),
            energy_left_j=np.full(tasks, self.objective.energy_j),
            observation_age_s=np.zeros(1),
            uplink_backlog_s=np.zeros((tasks, 1)),
        )

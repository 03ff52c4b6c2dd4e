"""Observations as they are told to the controller."""

import math

import numpy as np

from coinfer.site.messages import Observed
from coinfer.types import OffloadObservation


def observed(observation: OffloadObservation[np.ndarray]) -> Observed:
    """Return an observation as it is sent: six digits of each number, null for infinity.

    Args:
        observation: of K tasks.
    """
    tasks, options, servers = observation.option_server_s.shape
    fields = {
        name: [_number(value) for value in np.asarray(array, dtype=float).ravel().tolist()]
        for name, array in observation._asdict().items()
    }
    return Observed(tasks=tasks, options=options, servers=servers, fields=fields)


def _number(value: float) -> float | None:
    return None if math.isinf(value) else float(f"{value:.6g}")

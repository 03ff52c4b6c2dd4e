"""Observations as they are told to the controller."""

import math
from collections.abc import Sequence

import numpy as np

from coinfer.site.messages import Observed
from coinfer.types import OffloadObservation, fields_of

_FIELDS = fields_of(OffloadObservation)


def observed(observation: OffloadObservation[np.ndarray], addresses: Sequence[str] = ()) -> Observed:
    """Return an observation as it is sent: six digits of each number, null for infinity.

    Args:
        observation: of K tasks.
        addresses: of its servers.
    """
    tasks, options, servers = observation.option_server_s.shape
    fields = {
        name: [_number(value) for value in np.asarray(array, dtype=float).ravel().tolist()]
        for name, array in observation._asdict().items()
    }
    return Observed(tasks=tasks, options=options, servers=servers, fields=fields, addresses=list(addresses))


def _number(value: float) -> float | None:
    return None if math.isinf(value) else float(f"{value:.6g}")


def observation_of(sent: Observed) -> OffloadObservation[np.ndarray] | None:
    """Return an observation as its decider saw it; None if a field is missing or has another size.

    Args:
        sent: as it was told.
    """
    lengths = {"K": sent.tasks, "O": sent.options, "N": sent.servers}
    arrays: dict[str, np.ndarray] = {}
    for name, field in _FIELDS.items():
        shape = [lengths[letter] for letter in field.axes if letter != "B"]
        flat = sent.fields.get(name)
        if flat is None or len(flat) != math.prod(shape):
            return None
        values = np.array([math.inf if value is None else value for value in flat]).reshape(shape)
        arrays[name] = values.astype(bool) if field.is_mask else values
    return OffloadObservation(**arrays)

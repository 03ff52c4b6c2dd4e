"""Observations as they are told to the controller."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from coinfer.site.messages import Observed
from coinfer.types import OffloadObservation, fields_of

_FIELDS = fields_of(OffloadObservation)
USUAL: Mapping[str, float] = {
    "option_device_s": 0.0,
    "option_accuracy": 1.0,
    "option_device_j": 0.0,
    "option_mask": 1.0,
    "task_mask": 1.0,
    "deadline_s": math.inf,
    "device_backlog_s": 0.0,
    "energy_left_j": math.inf,
    "uplink_backlog_s": 0.0,
}
"""A field that holds nothing but this is not sent."""
_LARGE = 100.0


def observed(observation: OffloadObservation[np.ndarray], addresses: Sequence[str] = ()) -> Observed:
    """Return an observation as it is sent: large numbers with six digits, small ones with seven after the point, null
    for infinity, no fields of usual values.

    Args:
        observation: of K tasks.
        addresses: of its servers.
    """
    tasks, options, servers = observation.option_server_s.shape
    fields: dict[str, list[float | None]] = {}
    for name, array in zip(observation._fields, observation, strict=True):
        values, usual = array.ravel().tolist(), USUAL.get(name)
        if usual is None or values.count(usual) < len(values):
            fields[name] = [round(value, 7) if value < _LARGE else _large(value) for value in values]
    return Observed(tasks=tasks, options=options, servers=servers, fields=fields, addresses=tuple(addresses))


def _large(value: float) -> float | None:
    return None if value == math.inf else float(f"{value:.6g}")


def complete(sent: Mapping[str, object]) -> dict[str, object]:
    """Return an observation as JSON has it, with the fields that were not sent.

    Args:
        sent: as the store has it.
    """
    fields = {name: _usual(name, sent) for name in OffloadObservation._fields if name in USUAL}
    known = sent["fields"]
    assert isinstance(known, Mapping)
    return {**sent, "fields": {name: {**fields, **known}[name] for name in OffloadObservation._fields}}


def _usual(name: str, sent: Mapping[str, object]) -> list[float | None]:
    lengths = {"K": sent["tasks"], "O": sent["options"], "N": sent["servers"]}
    count = math.prod(int(str(lengths[letter])) for letter in _FIELDS[name].axes if letter != "B")
    return [None if math.isinf(USUAL[name]) else USUAL[name]] * count


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
        if flat is None and name in USUAL:
            values = np.full(shape, USUAL[name])
        elif flat is None or len(flat) != math.prod(shape):
            return None
        else:
            values = np.array([math.inf if value is None else value for value in flat]).reshape(shape)
        arrays[name] = values.astype(bool) if field.is_mask else values
    return OffloadObservation(**arrays)

"""Actors that were made for fixed numbers of tasks, options and servers, where there are fewer."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from coinfer.policies.onnx import ExportedPolicy, PolicyError
from coinfer.types import OffloadDecision, OffloadObservation, fields_of

_FIELDS = fields_of(OffloadObservation)
_FILL: Mapping[str, float] = {"option_server_s": 1e3, "server_backlog_s": 1e3, "uplink_bps": 1.0}
"""What is not there looks like this, and servers have no room. All else is 0: no task, no option."""


def padded(policy: ExportedPolicy) -> Callable[[OffloadObservation[np.ndarray]], OffloadDecision[np.ndarray]]:
    """Return a policy that takes smaller observations than it was made for; one for any sizes is returned as it is.

    Args:
        policy: its side-car tells the sizes.

    Raises:
        PolicyError: by the policy, if there are more than it was made for; one line.
    """
    sizes = {letter: size for letter, size in policy.sidecar["sizes"].items() if size is not None and letter != "M"}
    if not sizes:
        return policy

    def decide(observation: OffloadObservation[np.ndarray]) -> OffloadDecision[np.ndarray]:
        batch = observation.deadline_s.ndim - 1
        lengths = dict(zip("KON", observation.option_server_s.shape[batch:], strict=True))
        over = next((letter for letter, size in sizes.items() if lengths[letter] > size), None)
        if over is not None:
            raise PolicyError(f"made for at most {sizes[over]} on axis {over}, {lengths[over]} at hand")
        decision = policy(pad(observation, sizes, batch))
        tasks = lengths["K"]
        return OffloadDecision(*(np.asarray(part)[..., :tasks] for part in decision))

    return decide


def pad(observation: OffloadObservation[Any], sizes: Mapping[str, int], batch: int) -> OffloadObservation[np.ndarray]:
    """Return an observation with more places; the new ones hold no task, no option, and servers without room.

    Args:
        observation: arrays.
        sizes: of the axes that grow, by letter.
        batch: number of leading batch axes.
    """
    parts: dict[str, np.ndarray] = {}
    for name, field in _FIELDS.items():
        value = np.asarray(getattr(observation, name))
        letters = [letter for letter in field.axes if letter != "B"]
        for axis, letter in enumerate(letters, batch):
            more = sizes.get(letter, value.shape[axis]) - value.shape[axis]
            if more:
                shape = (*value.shape[:axis], more, *value.shape[axis + 1 :])
                fill = _FILL.get(name, 0.0)
                value = np.concatenate([value, np.full(shape, fill).astype(value.dtype)], axis)
        parts[name] = value
    return OffloadObservation(**parts)

"""Features for networks, numbers of about -1 to 1, from an observation in SI units. Axes as in `types`.

Times, rates and energies span decades, so a feature is their logarithm between fixed ends; the ends are constants,
never statistics of a run, so that a trained network means the same everywhere.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from coinfer.types import OffloadObservation

Features = Callable[[OffloadObservation[Tensor]], Tensor]

TIME_S = (1e-3, 1e2)
RATE_BPS = (1e5, 1e9)
ENERGY_J = (1e-3, 1e2)
MAX_ROOM = 100.0
"""Greatest number of tasks; more room looks like this."""


def logarithmic(value: Tensor, ends: tuple[float, float]) -> Tensor:
    """Return -1 to 1, from one end to the other on a logarithmic scale; values outside are moved to the nearer end.

    Args:
        value: any shape; may be 0 or infinite.
        ends: values that map to -1 and 1, both above 0.
    """
    low, high = math.log(ends[0]), math.log(ends[1])
    return (value.clamp(*ends).log() - low) * (2 / (high - low)) - 1


def task_features(o: OffloadObservation[Tensor]) -> Tensor:
    """Return the features of each task except those of its options, [.., K, 5 + N].

    Args:
        o: with any leading batch axes.
    """
    parts = (
        o.task_mask.to(o.deadline_s.dtype),
        logarithmic(o.deadline_s, TIME_S),
        logarithmic(o.device_backlog_s, TIME_S),
        logarithmic(o.uplink_backlog_s.amin(-1), TIME_S),
        logarithmic(o.energy_left_j, ENERGY_J),
    )
    return torch.cat((torch.stack(parts, -1), logarithmic(o.uplink_bps, RATE_BPS)), -1)


def server_features(o: OffloadObservation[Tensor]) -> Tensor:
    """Return backlog, room and age of the knowledge of each server, [.., N, 3].

    Args:
        o: with any leading batch axes.
    """
    room = (o.server_room.clamp(max=MAX_ROOM) / MAX_ROOM).sqrt() * 2 - 1
    return torch.stack((logarithmic(o.server_backlog_s, TIME_S), room, logarithmic(o.observation_age_s, TIME_S)), -1)


def whole_features(o: OffloadObservation[Tensor]) -> Tensor:
    """Return the features of all tasks and servers in one row, [.., K * (5 + N) + 3 N], as the papers' networks take
    them.

    The options are left out: for worlds with one network and one class of devices they never change.

    Args:
        o: with any leading batch axes.
    """
    return torch.cat((task_features(o).flatten(-2), server_features(o).flatten(-2)), -1)


def rate_features(o: OffloadObservation[Tensor]) -> Tensor:
    """Return every link's rate, on a logarithmic scale and as a share of 10 MB/s, [.., 2 K N].

    In SAC-d's world nothing else varies (its equation 5 names the bandwidth, and figures of the previous decision,
    which contain nothing new).

    Args:
        o: with any leading batch axes.
    """
    scaled = torch.cat((logarithmic(o.uplink_bps, RATE_BPS), o.uplink_bps.clamp(max=2e8) / 4e7 - 1), -1)
    return scaled.flatten(-2)

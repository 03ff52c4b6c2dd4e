"""An observation of environment `offload` as one tensor of numbers for each task, and back.

A replay memory and a network's inputs are one tensor; the score of a decision and a graph need the fields. Letters are
those of `coinfer.types`. Energies are left out, as the reward of GRLE does not count them.
"""

import torch
from torch import Tensor

from coinfer.types import OffloadObservation

LARGEST = 1e9
"""Infinite values become this one, so that 0 times it is 0."""


def pack(observation: OffloadObservation[Tensor]) -> Tensor:
    """Return the fields side by side, [.., K, F].

    Args:
        observation: with any leading batch axes.
    """
    o = observation
    tasks = o.task_mask.shape[-1]
    by_server = (part[..., None, :].expand(*part.shape[:-1], tasks, -1) for part in (o.server_backlog_s, o.server_room))
    parts = (
        o.option_device_s,
        o.option_upload_bits,
        o.option_accuracy,
        o.option_mask.to(o.deadline_s.dtype),
        o.option_server_s.flatten(-2),
        o.uplink_bps,
        o.uplink_backlog_s,
        *by_server,
        o.deadline_s[..., None],
        o.device_backlog_s[..., None],
    )
    return torch.cat(parts, -1).clamp(max=LARGEST)


def unpack(features: Tensor, servers: int, task_mask: Tensor | None = None) -> OffloadObservation[Tensor]:
    """Return the observation that `pack` got, without energies and ages.

    Args:
        features: [.., K, F].
        servers: N.
        task_mask: [.., K]; None if every entry is a task.
    """
    options = (features.shape[-1] - 4 * servers - 2) // (4 + servers)
    sizes = (options, options, options, options, options * servers, servers, servers, servers, servers, 1, 1)
    device_s, bits, accuracy, mask, server_s, bps, uplink_s, backlog_s, room, deadline_s, device_backlog_s = (
        features.split(sizes, -1)
    )
    present = torch.ones_like(features[..., 0], dtype=torch.bool) if task_mask is None else task_mask
    return OffloadObservation(
        option_device_s=device_s,
        option_upload_bits=bits,
        option_server_s=server_s.unflatten(-1, (options, servers)),
        option_accuracy=accuracy,
        option_device_j=torch.zeros_like(device_s),
        option_mask=mask > 0,
        task_mask=present,
        deadline_s=deadline_s[..., 0],
        uplink_bps=bps,
        device_backlog_s=device_backlog_s[..., 0],
        server_backlog_s=backlog_s[..., 0, :],
        server_room=room[..., 0, :],
        energy_left_j=torch.full_like(deadline_s[..., 0], LARGEST),
        observation_age_s=torch.zeros_like(backlog_s[..., 0, :]),
        uplink_backlog_s=uplink_s,
    )

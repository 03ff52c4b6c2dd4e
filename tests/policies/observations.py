"""Hand-made and random observations."""

import torch
from torch import Tensor

from coinfer.types import OffloadObservation


def observation(
    device_s: Tensor,
    upload_bits: Tensor,
    server_s: Tensor,
    uplink_bps: Tensor,
    server_backlog_s: Tensor,
    **more: Tensor,
) -> OffloadObservation:
    """An observation with nothing waiting, room everywhere and no limits, but for what is given."""
    tasks, servers = uplink_bps.shape[:-1], uplink_bps.shape[-1]
    worlds = tasks[:-1]
    plain = OffloadObservation(
        option_device_s=device_s,
        option_upload_bits=upload_bits,
        option_server_s=server_s,
        option_accuracy=torch.ones_like(device_s),
        option_device_j=torch.zeros_like(device_s),
        option_mask=torch.ones_like(device_s, dtype=torch.bool),
        task_mask=torch.ones(tasks, dtype=torch.bool),
        deadline_s=torch.full(tasks, torch.inf),
        uplink_bps=uplink_bps,
        device_backlog_s=torch.zeros(tasks),
        server_backlog_s=server_backlog_s,
        server_room=torch.full((*worlds, servers), torch.inf),
        energy_left_j=torch.full(tasks, torch.inf),
        observation_age_s=torch.zeros(*worlds, servers),
        uplink_backlog_s=torch.zeros_like(uplink_bps),
    )
    return plain._replace(**more)


def random_observation(seed: int, worlds: int, tasks: int, options: int, servers: int) -> OffloadObservation:
    """Random options, the last of which stays on the device; some tasks, options and room are missing."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)

    device_s = drawn(0.0, 0.2, worlds, tasks, options).sort(-1).values
    device_s[..., -1] += 0.3
    upload_bits = drawn(1e5, 1e6, worlds, tasks, options)
    upload_bits[..., -1] = 0
    server_s = drawn(0.0, 0.2, worlds, tasks, options, servers)
    server_s[..., -1, :] = 0
    option_mask = drawn(0, 1, worlds, tasks, options) < 0.8
    option_mask[..., -1] = True
    return observation(
        device_s,
        upload_bits,
        server_s,
        drawn(1e6, 2e7, worlds, tasks, servers),
        drawn(-0.2, 0.4, worlds, servers).clamp(min=0),
        option_mask=option_mask,
        task_mask=drawn(0, 1, worlds, tasks) < 0.8,
        device_backlog_s=drawn(-0.2, 0.1, worlds, tasks).clamp(min=0),
        server_room=drawn(0, 5, worlds, servers).floor(),
        deadline_s=drawn(0.1, 1.0, worlds, tasks),
        uplink_backlog_s=drawn(-0.2, 0.2, worlds, tasks, servers).clamp(min=0),
    )

"""A policy for any number of blocks, tasks and servers: one small network scores a few placements of each task.

The placements are the whole task in one place, and its first blocks on the device and the rest on one server
(`BlocksHeads` with `one_cut`). The inputs are what the physics predicts. The tasks of a slot are first shared out among
the servers in order, each to the server that would be done with it first (`scheduled_free_s`), all at once instead of
task after task; behind these queues, the latency of every placement is known. The network adds to a score that falls
with it, so an untrained one decides about as `list_schedule` does, and training has to learn what that misses: when to
split, stale knowledge, errors, other tasks.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from coinfer.physics import latency
from coinfer.policies.heuristics.blocks import NEVER_S, scheduled_free_s
from coinfer.policies.learned.actor_critic import Outputs
from coinfer.policies.learned.features import RATE_BPS, TIME_S, logarithmic
from coinfer.policies.learned.nets import Mlp
from coinfer.types import BlocksObservation

INPUTS = 11
"""F, features of a placement; the first is what it loses against the best one."""
LOSS_S = 0.02
"""Unit of losses; one of it makes a placement e times less probable at first."""
MAX_LOSS = 50.0
SPLIT = 3.0
"""Added to the losses of placements on two places: a task that comes late to its server finds the queue in disorder."""
TIE = 0.05
"""Added for each placement before: of equally good ones the first is taken."""


def predicted_state(o: BlocksObservation[Tensor]) -> Tensor:
    """Return the features of every placement, [.., K, 1 + M N, F]: the device alone, then by cut and server.

    Args:
        o: with any leading batch axes.
    """
    free_s = scheduled_free_s(o)
    local_s = o.device_backlog_s + o.block_device_s.sum(-1)
    before_s = o.block_device_s.cumsum(-1) - o.block_device_s
    begins_s = torch.where(before_s > 0, before_s + o.device_backlog_s[..., None], 0.0)
    upload_s = o.block_input_bits[..., None] / o.uplink_bps.clamp(min=1e-3)[..., None, :]
    ready_s = latency.ready_s(begins_s[..., None], o.uplink_backlog_s[..., None, None], upload_s)
    work_s = o.block_server_s.flip(-2).cumsum(-2).flip(-2)
    shape = work_s.shape
    end_s = latency.end_s(ready_s, free_s[..., None, 1:], work_s)
    end_s = torch.where(o.block_mask[..., None], end_s, NEVER_S)
    cut = torch.arange(shape[-2], device=end_s.device)[:, None].expand(shape)
    task = o.task_mask.to(end_s.dtype)
    rank = (task.cumsum(-1) - 0.5) / task.sum(-1, keepdim=True).clamp(min=1)

    def listed(on_device: Tensor, on_server: Tensor) -> Tensor:
        """Return a field of all placements [.., K, 1 + M N] from those of the device [.., K] and of the others."""
        return torch.cat([on_device[..., None], on_server.expand(shape).flatten(-2)], -1)

    all_s, nothing = listed(local_s, end_s).clamp(max=NEVER_S), torch.zeros_like(local_s)
    loss = (all_s - all_s.amin(-1, keepdim=True)) / LOSS_S + SPLIT * listed(nothing, (cut > 0).to(end_s.dtype))
    number = torch.arange(all_s.shape[-1], device=all_s.device)
    waits_s = free_s[..., None, 1:]
    features = (
        loss.clamp(max=MAX_LOSS) + TIE * number,
        logarithmic(all_s, TIME_S),
        logarithmic(all_s.amin(-1, keepdim=True), TIME_S).expand(all_s.shape),
        (listed(o.device_backlog_s, waits_s) / 2).clamp(max=2) - 0.5,
        logarithmic(listed(nothing, work_s), TIME_S),
        logarithmic(listed(nothing, upload_s), TIME_S),
        logarithmic(listed(local_s, begins_s[..., None]), TIME_S),
        logarithmic(listed(nothing, o.observation_age_s[..., None, None, :]), TIME_S),
        logarithmic(listed(nothing + RATE_BPS[1], o.uplink_bps[..., None, :]), RATE_BPS),
        listed(nothing + 1, torch.zeros_like(end_s)),
        (rank * 2 - 1)[..., None].expand(all_s.shape),
    )
    return torch.stack(features, -1)


@dataclass(frozen=True)
class PlaceScores:
    """Form of the network: fully connected layers that all placements share, and a value of the task."""

    hidden: tuple[int, ...] = (32, 32)
    """Widths of the hidden layers."""
    heads: int = 1

    @property
    def size(self) -> int:
        """Return P, the number of parameters of one learner."""
        return self._net.size + 1

    @property
    def _net(self) -> Mlp:
        return Mlp(INPUTS, self.hidden, 1, 2, shared=True, last_gain=0.01)

    def initial(self, seeds: Tensor) -> Tensor:
        """Return initial parameters, [L, P]: hardly more than the prediction.

        Args:
            seeds: [L] int64.
        """
        return torch.cat([self._net.initial(seeds), torch.zeros(len(seeds), 1, device=seeds.device)], 1)

    def __call__(self, flat: Tensor, features: Tensor) -> Outputs:
        """Return the outputs, of parameters [L, P] and features [L, B, K, C, F]."""
        shape = features.shape[1:-1]
        inputs = torch.cat([features[..., :1] / MAX_LOSS, features[..., 1:]], -1)
        outputs = self._net(flat[:, :-1], inputs.flatten(1, -2)[:, :, None]).unflatten(1, shape)[..., 0, :]
        scale = (flat[:, -1] * math.log(2)).exp().reshape(-1, *[1] * len(shape))
        return Outputs(outputs[..., 0] - features[..., 0] * scale, outputs[..., 1].mean(-1))

    def distance(self, flat: Tensor) -> Tensor:
        """Return 0 for each learner, [L]: nothing is tied.

        Args:
            flat: [L, P]
        """
        return flat.new_zeros(flat.shape[0])

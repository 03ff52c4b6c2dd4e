"""A policy for any number of blocks, tasks and servers: one small network scores a few placements of each task.

The placements are the whole task in one place, and its first blocks on the device and the rest on one server
(`BlocksHeads` with `one_cut`). The inputs are what the physics predicts behind the queues of `schedule_cuts`, which
places all tasks of the slot at once. The network adds to a score that falls with what a placement loses against the
best one, and for servers other than the schedule's, so an untrained policy follows the schedule, and training has to
learn what that misses: stale knowledge, errors, other tasks.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from coinfer.physics import latency
from coinfer.policies.heuristics.blocks import NEVER_S
from coinfer.policies.heuristics.blocks_schedule import cut_times, schedule_cuts
from coinfer.policies.learned.actor_critic import Outputs
from coinfer.policies.learned.features import RATE_BPS, TIME_S, logarithmic
from coinfer.policies.learned.nets import Mlp
from coinfer.types import BlocksObservation

INPUTS = 13
"""F, features of a placement; the first is what it loses against the best one."""
LOSS_S = 0.02
"""Unit of losses; one of it makes a placement e times less probable at first."""
MAX_LOSS = 50.0
AWAY = 3.0
"""Added to the losses of placements on another server than the schedule's: other tasks count on that one."""
TIE = 0.05
"""Added to the last placement, and less to those before: of equally good ones the first is taken."""


def predicted_state(o: BlocksObservation[Tensor]) -> Tensor:
    """Return the features of every placement, [.., K, 1 + M N, F]: the device alone, then by cut and server.

    Args:
        o: with any leading batch axes.
    """
    times = cut_times(o)
    schedule = schedule_cuts(o, times)
    shape, nothing = times.work_s.shape, torch.zeros_like(times.local_s)
    waits_s = schedule.free_s[..., None, :]
    end_s = latency.end_s(times.ready_s, waits_s, times.work_s)
    server = torch.arange(shape[-1], device=end_s.device)
    away = (server != schedule.server[..., None, None]).to(end_s.dtype)
    task = o.task_mask.to(end_s.dtype)
    rank = (task.cumsum(-1) - 0.5) / task.sum(-1, keepdim=True).clamp(min=1)

    def listed(on_device: Tensor, on_server: Tensor) -> Tensor:
        """Return a field of all placements [.., K, 1 + M N] from those of the device [.., K] and of the others."""
        return torch.cat([on_device[..., None], on_server.expand(shape).flatten(-2)], -1)

    all_s = listed(times.local_s, end_s).clamp(max=NEVER_S)
    loss = (all_s - all_s.amin(-1, keepdim=True)) / LOSS_S + AWAY * listed(nothing, away)
    features = (
        loss.clamp(max=MAX_LOSS) + torch.linspace(0, TIE, loss.shape[-1], device=loss.device, dtype=loss.dtype),
        logarithmic(all_s, TIME_S),
        logarithmic(all_s.amin(-1, keepdim=True), TIME_S).expand(all_s.shape),
        (listed(o.device_backlog_s, waits_s) / 2).clamp(max=2) - 0.5,
        logarithmic(listed(nothing, times.work_s), TIME_S),
        logarithmic(listed(nothing, times.upload_s), TIME_S),
        logarithmic(listed(times.local_s, times.begins_s[..., None]), TIME_S),
        logarithmic(listed(nothing, o.observation_age_s[..., None, None, :]), TIME_S),
        logarithmic(listed(nothing + RATE_BPS[1], o.uplink_bps[..., None, :]), RATE_BPS),
        listed(nothing + 1, torch.zeros_like(end_s)),
        listed(nothing, away),
        listed(nothing, (times.ready_s - waits_s) * 2).clamp(-1, 1),
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
        """Return initial parameters, [L, P]: hardly more than the schedule.

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

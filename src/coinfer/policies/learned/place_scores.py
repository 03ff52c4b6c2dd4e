"""A policy for any number of blocks, tasks and servers: one small network scores every place of every block.

Its inputs are what the physics predicts. The tasks of a slot are first shared out among the servers in order, each to
the server that would be done with it first (`scheduled_free_s`), all at once instead of task after task. Behind these
queues, the latency of the whole task in each place is known, and by dynamic programming the least latency if its block
m runs in place p. The network adds to a score that falls with the first, so an untrained one decides about as
`list_schedule` does, and training has to learn what that misses: splits, stale knowledge, errors, other tasks.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from coinfer.physics import latency
from coinfer.policies.heuristics.blocks import NEVER_S, link_rates_bps, scheduled_free_s, whole_latency_s
from coinfer.policies.learned.actor_critic import Outputs
from coinfer.policies.learned.features import RATE_BPS, TIME_S, logarithmic
from coinfer.policies.learned.nets import Mlp
from coinfer.types import BlocksObservation

INPUTS = 11
"""F, features of a place for a block; the first is what the whole task in this place loses against the best place."""
LOSS_S = 0.02
"""Unit of losses; one of it makes a place e times less probable at first."""
MAX_LOSS = 50.0
TIE = 0.05
"""Added for each place before: of equally good places all blocks of a task take the first."""


def predicted_state(o: BlocksObservation[Tensor]) -> Tensor:
    """Return the features of every place of every block, [.., K, M, N + 1, F].

    Args:
        o: with any leading batch axes.
    """
    free_s = scheduled_free_s(o)
    through_s = latency_through_s(o, free_s)
    best_s, shape = through_s.amin(-1, keepdim=True), through_s.shape
    whole_s = whole_latency_s(o, free_s)
    loss_s = (whole_s - whole_s.amin(-1, keepdim=True))[..., None, :].expand(shape)
    work_s = torch.cat([o.block_device_s[..., None], o.block_server_s], -1)
    rate_bps = torch.nn.functional.pad(o.uplink_bps, (1, 0), value=RATE_BPS[1])[..., None, :].expand(shape)
    age_s = torch.nn.functional.pad(o.observation_age_s, (1, 0))[..., None, None, :].expand(shape)
    waits_s = free_s[..., None, :].expand(shape)
    on_device = torch.zeros_like(through_s)
    on_device[..., 0] = 1
    task, blocks = o.task_mask.to(work_s.dtype), shape[-2]
    rank = ((task.cumsum(-1) - 0.5) / task.sum(-1, keepdim=True).clamp(min=1))[..., None, None].expand(shape)
    depth = (torch.arange(blocks, device=task.device, dtype=task.dtype) / blocks)[:, None].expand(shape)
    features = (
        (loss_s / LOSS_S).clamp(max=MAX_LOSS) + TIE * torch.arange(shape[-1], device=task.device),
        logarithmic(through_s - best_s, TIME_S),
        logarithmic(best_s, TIME_S).expand(shape),
        logarithmic(work_s, TIME_S),
        (waits_s / 2).clamp(max=2) - 0.5,
        logarithmic(rate_bps, RATE_BPS),
        logarithmic(o.block_input_bits[..., None] / 1e7, TIME_S).expand(shape),
        logarithmic(age_s, TIME_S),
        on_device,
        rank * 2 - 1,
        depth * 2 - 1,
    )
    return torch.stack(features, -1)


def latency_through_s(o: BlocksObservation[Tensor], free_s: Tensor) -> Tensor:
    """Return the least latency of each task alone if block m runs in place p, [.., K, M, N + 1].

    Args:
        o: with any leading batch axes.
        free_s: [.., K, N + 1] when each place is free.
    """
    work_s = torch.cat([o.block_device_s[..., None], o.block_server_s], -1)
    links_bps, (blocks, places) = link_rates_bps(o), work_s.shape[-2:]
    elsewhere = ~torch.eye(places, dtype=torch.bool, device=work_s.device)
    done_s = torch.full_like(work_s[..., :1, :], NEVER_S)
    done_s[..., 0] = 0
    for m in range(blocks):
        ready_s = (done_s[..., :, None] + _travel_s(o, links_bps, m)[..., None, :, :]).amin(-2)
        end_s = latency.end_s(ready_s, free_s[..., None, :], work_s[..., m, None, :])
        done_s = torch.where(o.block_mask[..., m, None, None], end_s, done_s).clamp(max=NEVER_S)
        # Row 0 goes on to any place; P more rows are those that have block m in place p.
        held_s = done_s[..., :1, :].expand(*done_s.shape[:-2], places, places)
        done_s = torch.cat([done_s, held_s.masked_fill(elsewhere, NEVER_S)], -2)
    return done_s[..., 1:, :].amin(-1).unflatten(-1, (blocks, places))


def _travel_s(o: BlocksObservation[Tensor], links_bps: Tensor, block: int) -> Tensor:
    """Return the time of the block's input from place to place, [.., K, P, P]; what waits for the radio is left out."""
    bits = o.block_input_bits[..., block, None, None]
    return torch.where(bits > 0, bits / links_bps.clamp(min=1e-3), 0.0)


@dataclass(frozen=True)
class PlaceScores:
    """Form of the network: fully connected layers that all places of all blocks share, and a value of the task."""

    hidden: tuple[int, ...] = (32, 32)
    """Widths of the hidden layers."""
    heads: int = 1
    """M of the worlds of the training, for the mean over heads in losses; the parameters do not depend on it."""

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
        """Return the outputs, of parameters [L, P] and features [L, B, K, M, N + 1, F]."""
        shape = features.shape[1:-1]
        inputs = torch.cat([features[..., :1] / MAX_LOSS, features[..., 1:]], -1)
        outputs = self._net(flat[:, :-1], inputs.flatten(1, -2)[:, :, None]).unflatten(1, shape)[..., 0, :]
        scale = (flat[:, -1] * math.log(2)).exp().reshape(-1, *[1] * len(shape))
        logits = outputs[..., 0] - features[..., 0] * scale
        return Outputs(logits.flatten(2, 3), outputs[..., 1].mean((-1, -2)))

    def distance(self, flat: Tensor) -> Tensor:
        """Return 0 for each learner, [L]: nothing is tied.

        Args:
            flat: [L, P]
        """
        return flat.new_zeros(flat.shape[0])

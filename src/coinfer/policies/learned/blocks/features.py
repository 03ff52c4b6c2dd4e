"""Inputs of networks that place every block (environment `blocks`), numbers of about -1 to 1, for each task of a slot.

`paper_state` is the state of multi-task A3C (IEEE TMC 2024, section 4.1): work, data and link rates of every block and
the remaining energy. It holds no load, so tasks that look alike get the same distribution over places. `queue_state` is
ours: also what waits, limits, the task's rank in its slot, and the latency that the physics predicts for a task alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from coinfer.physics import latency
from coinfer.policies.learned.features import ENERGY_J, RATE_BPS, TIME_S, logarithmic
from coinfer.types import BlocksObservation

BITS = (1e3, 1e8)

BlocksFeatures = Callable[[BlocksObservation[Tensor]], Tensor]


def paper_state(o: BlocksObservation[Tensor]) -> Tensor:
    """Return c, d and R of every block and E^r, [.., K, 2 M + N + 2].

    The work c of a block is its time on the device. The data d are the block's input: the paper's d is the size of the
    block's parameters, which cost nothing here. The rates R are the same for all blocks of a task. E^r is given twice,
    on a logarithmic scale and as a share of 1 kJ.

    Args:
        o: with any leading batch axes.
    """
    energy_j = o.energy_left_j.clamp(max=1e9)
    energy = torch.stack((logarithmic(energy_j, ENERGY_J), (energy_j / 1e3).clamp(max=1) * 2 - 1), -1)
    # A link rate varies by a factor of a few, which would be a tenth of the logarithmic scale.
    rates = (logarithmic(o.uplink_bps, RATE_BPS) - 0.05) * 5
    return torch.cat((logarithmic(o.block_device_s, TIME_S), logarithmic(o.block_input_bits, BITS), rates, energy), -1)


def queue_state(o: BlocksObservation[Tensor]) -> Tensor:
    """Return the paper's state, and queues, limits, rank and predicted latencies, [.., K, 2 M + M N + 4 N + 17].

    Args:
        o: with any leading batch axes.
    """
    servers = o.uplink_bps.shape[-1]
    shape = (*o.task_mask.shape, servers)
    backlog_s = o.server_backlog_s[..., None, :].expand(shape)
    upload_s = torch.where(o.uplink_bps > 0, o.block_input_bits[..., :1] / o.uplink_bps, 1e3)
    whole_s = latency.end_s(upload_s + o.uplink_backlog_s[..., None], backlog_s, o.block_server_s.sum(-2))
    local_s = o.device_backlog_s + o.block_device_s.sum(-1)
    alone = torch.stack((local_s, o.device_backlog_s, o.uplink_backlog_s, o.block_deadline_s[..., 0]), -1)
    parts = (
        paper_state(o),
        logarithmic(o.block_server_s, TIME_S).flatten(-2),
        _scaled_s(backlog_s),
        _scaled_s(whole_s),
        (o.server_room > 0)[..., None, :].expand(shape).to(backlog_s.dtype),
        logarithmic(alone, TIME_S),
        _rank(o),
    )
    return torch.cat(parts, -1)


FEATURES = {"paper": paper_state, "queues": queue_state}
"""States in one row for each task, by the names of `BlocksSettings.state`."""


def width(features: BlocksFeatures, blocks: int, servers: int) -> int:
    """Return the number of inputs of a task.

    Args:
        features: `paper_state` or `queue_state`.
        blocks: M
        servers: N
    """
    paper = 2 * blocks + servers + 2
    return paper if features is paper_state else paper + blocks * servers + 3 * servers + 4 + 2 * len(_WAVES) + 1


_WAVES = (1, 2, 4, 8, 16)


def _rank(o: BlocksObservation[Tensor]) -> Tensor:
    """Return the task's place among those of its slot and how many they are, as waves of several lengths.

    Tasks that look alike can so be told apart, and be shared out among servers without chance.
    """
    mask = o.task_mask.to(o.deadline_s.dtype)
    place = (mask.cumsum(-1) - 0.5) / mask.sum(-1, keepdim=True).clamp(min=1)
    waves = [wave(place * (torch.pi * count)) for count in _WAVES for wave in (torch.sin, torch.cos)]
    share = mask.mean(-1, keepdim=True).expand(mask.shape) * 2 - 1
    return torch.stack((*waves, share), -1)


def _scaled_s(time_s: Tensor) -> Tensor:
    """Return a time on a scale that is linear for the times that matter here."""
    return (time_s / 2.0).clamp(max=2.0) - 0.5


@dataclass(frozen=True)
class BlocksHeads:
    """What the choices of a network's heads mean.

    Independent heads, one for each block, choose among N + 1 places. One joint head chooses among all (N + 1)^M ways,
    or with `one_cut` among 1 + M N: the device alone, or one server from some block on.
    """

    blocks: int
    """M"""
    servers: int
    """N"""
    joint: bool = False
    one_cut: bool = False
    """Only with `joint`."""

    @property
    def heads(self) -> int:
        """Return the number of heads of a task."""
        return 1 if self.joint else self.blocks

    @property
    def choices(self) -> int:
        """Return the number of choices of a head."""
        if self.joint and self.one_cut:
            return 1 + self.blocks * self.servers
        return (self.servers + 1) ** (self.blocks if self.joint else 1)

    def mask(self, o: BlocksObservation[Tensor]) -> Tensor:
        """Return which choices go only to servers that are up and in reach, [.., K * heads, choices].

        Args:
            o: with any leading batch axes.
        """
        reached = (o.server_room > 0)[..., None, :] & (o.uplink_bps > 0)
        if self.joint:
            ways = self._ways(reached.device)
            uses = (ways[:, :, None] == torch.arange(1, self.servers + 1, device=ways.device)).any(1)
            return (~reached).float() @ uses.float().T == 0
        reached = torch.nn.functional.pad(reached, (1, 0), value=True)
        places = reached[..., None, :] | ~o.block_mask[..., None]
        return places.flatten(-3, -2)

    def entry_mask(self, o: BlocksObservation[Tensor]) -> Tensor:
        """Return which heads decide something, [.., K * heads].

        Args:
            o: with any leading batch axes.
        """
        return o.task_mask if self.joint else o.block_mask.flatten(-2)

    def places(self, action: Tensor) -> Tensor:
        """Return the places [.., K, M] of actions [.., K * heads].

        Args:
            action: int64, choices of the heads.
        """
        if self.joint:
            return self._ways(action.device)[action]
        return action.unflatten(-1, (-1, self.blocks))

    def _ways(self, device: torch.device) -> Tensor:
        """Return the places [choices, M] of every joint choice."""
        number = torch.arange(self.choices, device=device)[:, None]
        if self.one_cut:
            cut = torch.div(number - 1, self.servers, rounding_mode="floor")
            on_server = (torch.arange(self.blocks, device=device) >= cut) & (number > 0)
            return torch.where(on_server, (number - 1) % self.servers + 1, 0)
        power = (self.servers + 1) ** torch.arange(self.blocks, device=device)
        return torch.div(number, power, rounding_mode="floor") % (self.servers + 1)

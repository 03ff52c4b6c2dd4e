"""What a task can choose from: every option on every server, as flat tensors with one rule of prediction.

C = O * N choices a task; choice c is option c // N on server c % N. An option that sends nothing is one choice only,
its entry of server 0, so that nothing counts twice.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.physics import latency
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation


class Candidates(NamedTuple):
    """All [.., K, C] but `servers`; times are seconds from now."""

    own_s: Tensor
    """Time on the task's own device, without waiting."""
    ready_s: Tensor
    """When the task reaches its server, were its upload alone on the link; where nothing is sent, when it is done."""
    service_s: Tensor
    """Work for the server; 0 where nothing is sent."""
    accuracy: Tensor
    on_device: Tensor
    """True where nothing is sent."""
    mask: Tensor
    """True where the choice may be taken; every task has such a choice."""
    servers: int

    def limited_to(self, wanted: Tensor) -> "Candidates":
        """Without the choices that are not wanted [.., K, C]; a task that would have none left keeps all."""
        mask = self.mask & wanted
        return self._replace(mask=mask | (self.mask & ~mask.any(-1, keepdim=True)))

    def task(self, k: int) -> "Candidates":
        """Those of task k alone; K becomes 1."""
        return Candidates(*(part[..., k : k + 1, :] for part in self[:-1]), servers=self.servers)

    def of_servers(self, values: Tensor) -> Tensor:
        """Values of servers [.., N] as values of choices [.., C]."""
        return values.repeat(*[1] * (values.dim() - 1), self.mask.shape[-1] // self.servers)

    def on_server(self, server: Tensor) -> Tensor:
        """True [.., K, C] for the choices on these servers [.., K], `DEVICE` being one."""
        index = torch.arange(self.mask.shape[-1], device=server.device) % self.servers
        return torch.where(self.on_device, DEVICE, index) == server[..., None]

    def decision(self, choice: Tensor) -> OffloadDecision:
        """The decision that takes these entries, [.., K]."""
        here = self.on_device.gather(-1, choice[..., None])[..., 0]
        server = torch.where(here, DEVICE, choice % self.servers)
        return OffloadDecision(torch.div(choice, self.servers, rounding_mode="floor"), server)


def candidates_of(observation: OffloadObservation) -> Candidates:
    """What an observation leaves to choose. A server without room is left out, and so is a dead link; a task that has
    nothing left gets its first choice on the device (every table has one), wise or not."""
    o = observation
    sends = (o.option_upload_bits > 0)[..., None]
    ready_s = latency.offload_ready_s(o)
    first = torch.arange(ready_s.shape[-1], device=ready_s.device) == 0
    reached = ((o.uplink_bps > 0) & (o.server_room > 0)[..., None, :])[..., None, :]
    reachable = (sends & reached) | (~sends & first)
    parts = (
        o.option_device_s[..., None],
        ready_s,
        torch.where(sends, o.option_server_s, 0.0),
        o.option_accuracy[..., None],
        ~sends,
        o.option_mask[..., None] & reachable,
    )
    own_s, ready_s, service_s, accuracy, on_device, mask = (part.expand(ready_s.shape).flatten(-2) for part in parts)
    number = torch.arange(mask.shape[-1], device=mask.device)
    fallback = on_device.int().argmax(-1)[..., None] == number  # `one_hot` would fix the number of choices on export
    mask = mask | (fallback & ~mask.any(-1, keepdim=True))
    return Candidates(own_s, ready_s, service_s, accuracy, on_device, mask, first.shape[0])


def predicted_s(found: Candidates, server_free_s: Tensor) -> Tensor:
    """Latency of every choice [.., K, C], were it the only task decided now; infinite where it may not be taken.

    FIFO: the server starts when the task is there and all that waited before is done.

    Args:
        server_free_s: [.., N] or [.., K, N] seconds until each server has done what waits there.
    """
    free_s = server_free_s if server_free_s.dim() == found.mask.dim() else server_free_s[..., None, :]
    served_s = latency.end_s(found.ready_s, found.of_servers(free_s), found.service_s)
    return torch.where(found.mask, torch.where(found.on_device, found.ready_s, served_s), torch.inf)

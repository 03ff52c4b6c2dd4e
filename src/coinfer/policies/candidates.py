"""The choices of a task: every option on every server, as flat tensors with one rule of prediction.

A task has C = O * N choices; choice c is option c // N on server c % N. An option that sends nothing is one choice
only, its entry of server 0, so that nothing counts twice.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.physics import latency
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation


class Candidates(NamedTuple):
    """The choices of every task; all fields are [.., K, C] but `servers`, and times are seconds from now."""

    own_s: Tensor
    """Time on the task's own device, without waiting."""
    ready_s: Tensor
    """When the task arrives at its server if nobody shares the link; if nothing is sent, when the task is done."""
    service_s: Tensor
    """Time that the server takes; 0 if nothing is sent."""
    accuracy: Tensor
    on_device: Tensor
    """True if nothing is sent."""
    mask: Tensor
    """True if the choice is allowed; every task has at least one."""
    servers: int
    """N"""

    def restrict(self, allowed: Tensor) -> "Candidates":
        """Return the same choices with fewer of them allowed; a task that would have none left keeps all.

        Args:
            allowed: [.., K, C] bool.
        """
        mask = self.mask & allowed
        return self._replace(mask=mask | (self.mask & ~mask.any(-1, keepdim=True)))

    def task(self, k: int) -> "Candidates":
        """Return the choices of one task; K becomes 1.

        Args:
            k: number of the task.
        """
        return Candidates(*(part[..., k : k + 1, :] for part in self[:-1]), servers=self.servers)

    def expand_servers(self, values: Tensor) -> Tensor:
        """Return values of servers as values of choices, [.., C].

        Args:
            values: [.., N]
        """
        return values.repeat(*[1] * (values.dim() - 1), self.mask.shape[-1] // self.servers)

    def server_mask(self, server: Tensor) -> Tensor:
        """Return which choices are on given servers, [.., K, C] bool.

        Args:
            server: [.., K] one server per task; `DEVICE` stands for the device.
        """
        index = torch.arange(self.mask.shape[-1], device=server.device) % self.servers
        return torch.where(self.on_device, DEVICE, index) == server[..., None]

    def choice(self, decision: OffloadDecision[Tensor]) -> Tensor:
        """Return the entries that a decision takes, [.., K]; the inverse of `decision`.

        Args:
            decision: [.., K]
        """
        return decision.option * self.servers + decision.server.clamp(min=0)

    def decision(self, choice: Tensor) -> OffloadDecision[Tensor]:
        """Return the decision that takes given entries.

        Args:
            choice: [.., K] int64 below C.
        """
        on_device = self.on_device.gather(-1, choice[..., None])[..., 0]
        option, server = divide(choice, self.servers)
        return OffloadDecision(option, torch.where(on_device, DEVICE, server))


def divide(number: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """Return quotient and remainder of whole numbers of at least 0, in operations that ONNX has for any divisor.

    Args:
        number: int64, any shape.
        by: above 0.
    """
    quotient = torch.div(number, by, rounding_mode="floor")
    return quotient, number - quotient * by


def candidates_of(observation: OffloadObservation[Tensor]) -> Candidates:
    """Return the choices that an observation leaves.

    A server without room is left out, and so is a broken link. A task with nothing left gets its first choice on the
    device, whether good or not; every option table has one.

    Args:
        observation: of tensors, with any leading batch axes.
    """
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


def predicted_s(candidates: Candidates, server_free_s: Tensor) -> Tensor:
    """Return the predicted latency of every choice, [.., K, C], as if each task were the only one that is decided now.

    Servers are first come, first served: a server starts when the task has arrived and all earlier work is done. The
    latency is infinite for a choice that is not allowed.

    Args:
        candidates: from `candidates_of`.
        server_free_s: [.., N] or [.., K, N] seconds until each server has done its earlier work.
    """
    free_s = server_free_s if server_free_s.dim() == candidates.mask.dim() else server_free_s[..., None, :]
    served_s = latency.end_s(candidates.ready_s, candidates.expand_servers(free_s), candidates.service_s)
    return torch.where(candidates.mask, torch.where(candidates.on_device, candidates.ready_s, served_s), torch.inf)

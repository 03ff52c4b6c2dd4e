"""A graph network over the tasks' devices, the servers and the options (exits) of a slot, for GRLE (arXiv 2210.13464).

Every pair of an option and a server is an edge of a task's device, with features of its own: when the task would arrive
there, what it takes, how accurate it is. Messages are dense. A round lets each edge know

- the devices that would arrive at its server earlier, because servers serve first come, first served, and all devices
  at its server; a device counts there as much as it wants to go there, by a softmax over its edges;
- the mean of its device's edges, and the mean of its option's edges.

One network serves any number of devices, servers and options, and permuted devices, servers or options permute its
outputs. Times enter relative to the task's deadline. The paper's own network is not public; without `ordered` the
devices that arrive earlier are not told apart from the others, as in a plain graph convolution.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.physics import latency, random
from coinfer.policies.candidates import Candidates, candidates_of, divide
from coinfer.policies.learned.imitation.packed import unpack
from coinfer.types import OffloadObservation

EDGE_FEATURES = 8
MOST = 400.0
"""Longer times, in deadlines, look like this: a task that arrives so late holds up its server for as long."""
_FORBIDDEN = -1e9
"""Logit of an edge that is not allowed."""
_CROWD = 0.25
"""Scale of sums over devices."""


class _Edges(NamedTuple):
    """The edges of G = L * B slots, and the weights with which they are summed up; R is 2 kinds of messages or 1."""

    features: Tensor
    """[.., K, C, EDGE_FEATURES]"""
    mask: Tensor
    """[G, K, 1, C] true for allowed choices."""
    by_server: Tensor
    """[G, K, N, C] 1 for those allowed at the server."""
    by_device: Tensor
    """[G, K, 1, C] of the mean over a device's edges."""
    by_option: Tensor
    """[G, O, K * C] of the mean over an option's edges."""
    by_order: Tensor
    """[G, N, K, K * R] from which devices at the server a device gets messages: the earlier ones and all, or all."""


class _Round(NamedTuple):
    """Parameters of a round: matrices [L, H, H], want [L, H, 1], bias [L, 1, H]."""

    want: Tensor
    own: Tensor
    ahead: Tensor
    crowd: Tensor
    device: Tensor
    option: Tensor
    bias: Tensor


@dataclass(frozen=True)
class GraphNet:
    """Form of the network, a `nets.Net`."""

    servers: int
    """N of packed features; `logits` takes observations of any number."""
    hidden: int = 32
    """H, numbers of an edge between rounds."""
    rounds: int = 3
    """Rounds of messages."""
    ordered: bool = True
    """Whether devices that would arrive earlier send messages of their own."""

    @property
    def size(self) -> int:
        """Return P, the number of parameters of one learner."""
        return sum(math.prod(shape) for shape in self._shapes())

    def initial(self, seeds: Tensor) -> Tensor:
        """Return initial parameters [L, P], uniform within 1 / sqrt(inputs of the layer).

        Args:
            seeds: [L] int64.
        """
        count = torch.arange(self.size, device=seeds.device)
        drawn = 2 * random.uniform(random.bits(seeds[:, None], count), torch.float32) - 1
        scale = [
            torch.full((math.prod(shape),), 1 / math.sqrt(self._inputs(shape)), device=seeds.device)
            for shape in self._shapes()
        ]
        return drawn * torch.cat(scale)

    def __call__(self, flat: Tensor, features: Tensor) -> Tensor:
        """Return a logit for every choice of every task [L, B, K, C], of parameters [L, P].

        Args:
            flat: [L, P] parameters.
            features: [L, B, K, F] of `packed.pack`.
        """
        return self.logits(flat, unpack(features, self.servers))

    def logits(
        self, flat: Tensor, observation: OffloadObservation[Tensor], candidates: Candidates | None = None
    ) -> Tensor:
        """Return the same for observations with any number of devices, servers and options, [.., K, C].

        Args:
            flat: [L, P] parameters.
            observation: [L, B, ..] or [L * B, ..]; a choice is option * N + server.
            candidates: of the observation, if the caller has them already.
        """
        edges = _edges(observation, candidates or candidates_of(observation), self.ordered)
        encode, encode_bias, *rest = self._parameters(flat)
        parts = len(_Round._fields)
        state = torch.baddbmm(encode_bias, edges.features.reshape(len(flat), -1, EDGE_FEATURES), encode).relu()
        for number in range(self.rounds):
            state = self._round(_Round(*rest[number * parts : (number + 1) * parts]), state, edges)
        return torch.bmm(state, rest[-1]).reshape(edges.features.shape[:-1])

    def _round(self, layer: _Round, state: Tensor, edges: _Edges) -> Tensor:
        """Return the edges [L, B * K * C, H] after a round of messages, which are few matrix products (for speed)."""
        slots, tasks, servers, choices = edges.by_server.shape
        by_task = state.reshape(slots, tasks, choices, self.hidden)
        weight = torch.where(edges.mask, torch.bmm(state, layer.want).reshape(edges.mask.shape), _FORBIDDEN).softmax(-1)
        at_server = torch.matmul(weight * edges.by_server, by_task).transpose(1, 2)  # [G, N, K, H]
        kinds = torch.cat((layer.ahead, layer.crowd), -1) if self.ordered else layer.crowd
        sent = _apply(kinds, at_server).reshape(slots, servers, -1, self.hidden)
        at_pair = torch.matmul(edges.by_order, sent).transpose(1, 2)
        at_pair = at_pair + _apply(layer.device, torch.matmul(edges.by_device, by_task))
        option = torch.matmul(edges.by_option, state.reshape(slots, -1, self.hidden))
        option = torch.baddbmm(layer.bias, option.reshape(len(state), -1, self.hidden), layer.option)
        messages = at_pair[:, :, None] + option.reshape(slots, 1, -1, 1, self.hidden)
        return (torch.bmm(state, layer.own) + messages.reshape(state.shape)).relu()

    def _shapes(self) -> list[tuple[int, int]]:
        width = self.hidden
        square = (width, width)
        one_round = [(width, 1), *[square] * 5, (1, width)]
        return [(EDGE_FEATURES, width), (1, width), *one_round * self.rounds, (width, 1)]

    def _inputs(self, shape: tuple[int, int]) -> int:
        return shape[0] if shape[0] > 1 else self.hidden

    def _parameters(self, flat: Tensor) -> list[Tensor]:
        shapes = self._shapes()
        parts = flat.split([math.prod(shape) for shape in shapes], 1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]


def _edges(o: OffloadObservation[Tensor], candidates: Candidates, ordered: bool) -> _Edges:
    mask = candidates.mask & o.task_mask[..., None]
    sends, servers = ~candidates.on_device, candidates.servers
    arrival_s = torch.where(mask & sends, candidates.ready_s, torch.inf).unflatten(-1, (-1, servers)).amin(-2)
    arrival_s = arrival_s.flatten(0, -3)
    features = _features(o, candidates, sends)
    allowed = mask.flatten(0, -3).to(features.dtype)
    place = torch.arange(mask.shape[-1], device=mask.device)
    option, server = divide(place, servers)
    one_server = (server == place[:servers, None]).to(allowed.dtype)
    one_option = (option == place[: o.option_mask.shape[-1], None]).to(allowed.dtype)
    by_option = (allowed[:, None] * one_option[:, None]).flatten(-2)
    return _Edges(
        features,
        mask.flatten(0, -3)[:, :, None],
        allowed[:, :, None] * one_server,
        (allowed / allowed.sum(-1, keepdim=True).clamp(min=1))[:, :, None],
        by_option / by_option.sum(-1, keepdim=True).clamp(min=1),
        _order(arrival_s, ordered),
    )


def _features(o: OffloadObservation[Tensor], candidates: Candidates, sends: Tensor) -> Tensor:
    """Return the features of each edge, [.., K, C, EDGE_FEATURES]; `sends` [.., K, C] is false on the device."""
    ready_s, service_s = candidates.ready_s, candidates.service_s
    free_s = candidates.expand_servers(o.server_backlog_s)[..., None, :].expand(ready_s.shape)
    alone_s = torch.where(sends, latency.end_s(ready_s, free_s, service_s), ready_s)
    deadline_s = o.deadline_s[..., None].clamp(max=1e6)
    times = _compress(torch.stack((ready_s, service_s, free_s, alone_s), -1) / deadline_s[..., None])
    tasks = o.task_mask.to(deadline_s.dtype)
    mean_s = ((deadline_s[..., 0] * tasks).sum(-1) / tasks.sum(-1).clamp(min=1))[..., None, None]
    in_time = (alone_s <= deadline_s).to(deadline_s.dtype)
    relative = _compress(deadline_s / mean_s).expand(ready_s.shape)
    others = torch.stack((candidates.accuracy, sends.to(deadline_s.dtype), in_time, relative), -1)
    return torch.cat((times, others), -1)


def _compress(ratio: Tensor) -> Tensor:
    """Return ratios up to 1 as they are, and 1 + ln of greater ones."""
    return ratio.clamp(max=1.0) + ratio.clamp(1.0, MOST).log()


def _order(arrival_s: Tensor, ordered: bool) -> Tensor:
    """Return whose messages reach a device, from arrivals [G, K, N]; see `_Edges.by_order`."""
    by_server = arrival_s.transpose(-1, -2)
    earlier = (by_server[..., None, :] < by_server[..., :, None]).to(arrival_s.dtype)
    every = torch.ones_like(earlier)
    return _CROWD * (torch.stack((earlier, every), -1).flatten(-2) if ordered else every)


def _apply(matrix: Tensor, values: Tensor) -> Tensor:
    """Return values [L * B, .., H] times a matrix [L, H, H'] of each learner."""
    flat = values.reshape(len(matrix), -1, values.shape[-1])
    return torch.bmm(flat, matrix).reshape(*values.shape[:-1], matrix.shape[-1])

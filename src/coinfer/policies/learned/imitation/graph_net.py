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
from coinfer.policies.candidates import candidates_of
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
    """The edges of a slot; all axes are [L, B, K, O, N]."""

    features: Tensor
    """[.., EDGE_FEATURES]"""
    mask: Tensor
    """True for allowed choices."""
    earlier: Tensor
    """[L, B, N, K, K] 1 if the second device's task would arrive at the server before the first one's, else 0."""


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

    def logits(self, flat: Tensor, observation: OffloadObservation[Tensor]) -> Tensor:
        """Return the same for observations [L, B, ..] with any number of devices, servers and options.

        Args:
            flat: [L, P] parameters.
            observation: of L times B worlds; a choice is option * N + server.
        """
        edges = _edges(observation)
        encode, encode_bias, *rest = self._parameters(flat)
        size, parts = edges.mask.shape, len(_Round._fields)
        state = torch.baddbmm(encode_bias, edges.features.flatten(1, -2), encode).relu()
        for number in range(self.rounds):
            state = self._round(_Round(*rest[number * parts : (number + 1) * parts]), state, edges)
        return torch.bmm(state, rest[-1]).reshape(*size[:3], -1)

    def _round(self, layer: _Round, state: Tensor, edges: _Edges) -> Tensor:
        """Return the edges [L, B * K * O * N, H] after a round of messages."""
        size = edges.mask.shape
        by_edge = state.unflatten(1, size[1:])
        weight = _share(torch.bmm(state, layer.want).reshape(size), edges.mask)[..., None]
        at_server = (by_edge * weight).sum(3).transpose(2, 3)  # [L, B, N, K, H]
        crowd = at_server.sum(3) * _CROWD
        allowed = edges.mask[..., None].to(state.dtype)
        present = by_edge * allowed
        device = present.sum((3, 4)) / allowed.sum((3, 4)).clamp(min=1)
        option = present.sum((2, 4)) / allowed.sum((2, 4)).clamp(min=1)
        at_pair = _apply(layer.crowd, crowd)[:, :, None] + _apply(layer.device, device)[:, :, :, None]
        if self.ordered:
            ahead = torch.matmul(edges.earlier, at_server) * _CROWD
            at_pair = at_pair + _apply(layer.ahead, ahead).transpose(2, 3)
        messages = at_pair[:, :, :, None] + _apply(layer.option, option)[:, :, None, :, None]
        return (torch.baddbmm(layer.bias, state, layer.own) + messages.flatten(1, -2)).relu()

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


def _edges(o: OffloadObservation[Tensor]) -> _Edges:
    candidates = candidates_of(o)
    mask = candidates.mask.unflatten(-1, (-1, candidates.servers)) & o.task_mask[..., None, None]
    ready_s = latency.offload_ready_s(o)
    sends = (o.option_upload_bits > 0)[..., None].expand(ready_s.shape)
    service_s = torch.where(sends, o.option_server_s, 0.0)
    free_s = o.server_backlog_s[..., None, None, :].expand(ready_s.shape)
    alone_s = torch.where(sends, latency.end_s(ready_s, free_s, service_s), ready_s)
    deadline_s = o.deadline_s[..., None, None].clamp(max=1e6)
    times = (_compress(part / deadline_s) for part in (ready_s, service_s, free_s, alone_s))
    tasks = o.task_mask.to(deadline_s.dtype)
    mean_s = ((deadline_s[..., 0, 0] * tasks).sum(-1) / tasks.sum(-1).clamp(min=1))[..., None, None, None]
    others = (
        o.option_accuracy[..., None],
        sends.to(deadline_s.dtype),
        (alone_s <= deadline_s).to(deadline_s.dtype),
        _compress(deadline_s / mean_s),
    )
    features = torch.stack([part.expand(ready_s.shape) for part in (*times, *others)], -1)
    return _Edges(features, mask, _earlier(torch.where(mask & sends, ready_s, torch.inf).amin(-2)))


def _compress(ratio: Tensor) -> Tensor:
    """Return ratios up to 1 as they are, and 1 + ln of greater ones."""
    return ratio.clamp(max=1.0) + ratio.clamp(1.0, MOST).log()


def _earlier(arrival_s: Tensor) -> Tensor:
    """Return whether a task arrives at each server before another, [.., N, K, K], from arrivals [.., K, N]."""
    by_server = arrival_s.transpose(-1, -2)
    return (by_server[..., None, :] < by_server[..., :, None]).to(arrival_s.dtype)


def _share(logits: Tensor, mask: Tensor) -> Tensor:
    """Return a softmax over the allowed edges of each device; logits [L, B, K, O, N]."""
    flat = torch.where(mask, logits, _FORBIDDEN).flatten(-2).softmax(-1)
    return flat.reshape(logits.shape) * mask


def _apply(matrix: Tensor, values: Tensor) -> Tensor:
    """Return values [L, .., H] times a matrix [L, H, H] of each learner."""
    return torch.bmm(values.flatten(1, -2), matrix).reshape(values.shape)

"""Form of actor-critic networks: a trunk, M policy heads and one value head, for L learners at once.

The paper of multi-task A3C (IEEE TMC 2024, figure 4) joins the hidden layers of actor and critic in one shared trunk,
which it calls soft parameter sharing. In the literature the word means trunks of their own for every task, tied by a
penalty on their distance: `trunks="tied"`. `trunks="apart"` gives actor and critic a trunk each.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from coinfer.physics import random


class Outputs(NamedTuple):
    """Outputs of the heads. U units decide for themselves, such as the tasks of a slot, with M heads each."""

    logits: Tensor
    """[L, B, U * M, C]"""
    value: Tensor
    """[L, B, U]"""


class ActorCriticForm(Protocol):
    """A form of actor-critic networks; L learners."""

    @property
    def heads(self) -> int:
        """Return M, the number of policy heads of a unit."""
        ...

    @property
    def size(self) -> int:
        """Return P, the number of parameters of one learner."""
        ...

    def initial(self, seeds: Tensor) -> Tensor:
        """Return initial parameters, [L, P]; those of a seed do not depend on the other seeds.

        Args:
            seeds: [L] int64.
        """
        ...

    def __call__(self, flat: Tensor, features: Tensor) -> Outputs:
        """Return the outputs of all heads, of parameters [L, P] and features [L, B, ..]."""
        ...

    def distance(self, flat: Tensor) -> Tensor:
        """Return what a penalty on parameters that should be alike counts, [L].

        Args:
            flat: [L, P]
        """
        ...


class _Layer(NamedTuple):
    """G fully connected layers of one size, one for each group."""

    groups: int
    inputs: int
    outputs: int
    gain: float

    @property
    def size(self) -> int:
        return self.groups * (self.inputs + 1) * self.outputs

    def initial(self, seeds: Tensor, biased: bool) -> Tensor:
        """Return [L, size]: uniform within gain / sqrt(inputs), biases too or 0."""
        place = torch.arange(self.size, device=seeds.device)
        drawn = random.uniform(random.bits(seeds[:, None], place), torch.float32)
        kept = biased | (place < self.groups * self.inputs * self.outputs)
        return (2 * drawn - 1) * self.gain / math.sqrt(self.inputs) * kept

    def __call__(self, flat: Tensor, inputs: Tensor) -> Tensor:
        """Return [L, G, n, outputs] from [L, G or 1, n, inputs]."""
        count = self.groups * self.inputs * self.outputs
        weight = flat[:, :count].reshape(-1, self.groups, self.inputs, self.outputs)
        bias = flat[:, count:].reshape(-1, self.groups, self.outputs)
        if inputs.shape[1] < self.groups:  # all groups see the same: one product, without a copy for each
            product = torch.baddbmm(bias.flatten(1)[:, None], inputs[:, 0], weight.transpose(1, 2).flatten(2))
            return product.unflatten(-1, (self.groups, self.outputs)).transpose(1, 2)
        product = torch.baddbmm(bias.flatten(0, 1)[:, None], inputs.flatten(0, 1), weight.flatten(0, 1))
        return product.unflatten(0, (-1, self.groups))


@dataclass(frozen=True)
class ActorCriticNet:
    """Fully connected trunk and heads with ReLU between the layers."""

    inputs: int
    """F"""
    heads: int
    """M, policy heads of each unit."""
    choices: int
    """C"""
    units: int = 1
    """U"""
    by_unit: bool = False
    """False: features [L, B, F] of the whole state, and heads for all units. True: features [L, B, U, F], and all units
    share one network."""
    trunk: tuple[int, ...] = (64, 64)
    """Widths of the trunk's layers."""
    head: tuple[int, ...] = ()
    """Widths of the hidden layers of each head."""
    trunks: Literal["shared", "tied", "apart"] = "shared"
    first: Literal["plain", "he"] = "plain"
    """First weights: in hidden layers of variance 1 / inputs, or 2 / inputs and no biases anywhere (He et al., ICCV
    2015)."""

    @property
    def size(self) -> int:
        """Return P, the number of parameters of one learner."""
        return sum(layer.size for part in self._parts() for layer in part)

    def initial(self, seeds: Tensor) -> Tensor:
        """Return initial parameters, [L, P]; those of a seed do not depend on the other seeds.

        Args:
            seeds: [L] int64.
        """
        layers = [layer for part in self._parts() for layer in part]
        return torch.cat(
            [layer.initial(random.key(seeds, number), self.first == "plain") for number, layer in enumerate(layers)], 1
        )

    def __call__(self, flat: Tensor, features: Tensor) -> Outputs:
        """Return the outputs of all heads, of parameters [L, P] and features [L, B, F] or [L, B, U, F]."""
        batch, rows = features.shape[1], features.flatten(1, -2)
        trunk, policy, critic = self._parts()
        split = flat.split([sum(layer.size for layer in part) for part in (trunk, policy, critic)], 1)
        hidden = _run(trunk, split[0], rows[:, None]).relu()
        actor = hidden[:, :-1] if self.trunks != "shared" else hidden
        logits, value = _run(policy, split[1], actor), _run(critic, split[2], hidden[:, -1:])
        logits = logits.transpose(1, 2).reshape(flat.shape[0], batch, self.units * self.heads, self.choices)
        return Outputs(logits, value.transpose(1, 2).reshape(flat.shape[0], batch, self.units))

    def distance(self, flat: Tensor) -> Tensor:
        """Return the summed square of the distance of the policy heads' trunks from their mean, [L]; 0 unless tied.

        Args:
            flat: [L, P]
        """
        if self.trunks != "tied":
            return flat.new_zeros(flat.shape[0])
        total, begin = flat.new_zeros(flat.shape[0]), 0
        for layer in self._parts()[0]:
            count = layer.groups * layer.inputs * layer.outputs
            for part in (flat[:, begin : begin + count], flat[:, begin + count : begin + layer.size]):
                trunks = part.unflatten(1, (layer.groups, -1))[:, :-1]
                total = total + (trunks - trunks.mean(1, keepdim=True)).square().sum((1, 2))
            begin += layer.size
        return total

    def _parts(self) -> tuple[list[_Layer], list[_Layer], list[_Layer]]:
        """Return the layers of trunks, policy heads and value head."""
        entries = self.heads if self.by_unit else self.heads * self.units
        values = 1 if self.by_unit else self.units
        groups = {"shared": 1, "apart": 2, "tied": entries + 1}[self.trunks]
        after, gain = (self.trunk[-1], *self.head), math.sqrt(3.0 if self.first == "plain" else 6.0)
        trunk = [_Layer(groups, *pair, gain) for pair in pairwise((self.inputs, *self.trunk))]
        hidden = list(pairwise(after))
        policy = [*(_Layer(entries, *pair, gain) for pair in hidden)]
        critic = [*(_Layer(1, *pair, gain) for pair in hidden)]
        return (
            trunk,
            [*policy, _Layer(entries, after[-1], self.choices, 0.02)],
            [*critic, _Layer(1, after[-1], values, 1)],
        )


def _run(layers: list[_Layer], flat: Tensor, hidden: Tensor) -> Tensor:
    """Return the outputs of the last layer, before any ReLU."""
    for number, (layer, part) in enumerate(zip(layers, flat.split([one.size for one in layers], 1), strict=True)):
        hidden = layer(part, hidden.relu() if number else hidden)
    return hidden

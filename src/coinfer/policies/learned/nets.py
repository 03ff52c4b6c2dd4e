"""Batched networks: L independent networks of one form, evaluated by batched matrix products.

The parameters of a form are one flat tensor [L, P], so an optimiser, a soft copy, a norm for each learner or a
checkpoint is one operation on one tensor. A form (here `Mlp`) only knows how to read it. Other forms are possible: the
learners use only the three members of `Net`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from coinfer.physics import random


class Net(Protocol):
    """A form of network. L learners, K tasks, C choices of a task."""

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

    def __call__(self, flat: Tensor, features: Tensor) -> Tensor:
        """Return a number for every choice of every task [L, B, K, C], of parameters [L, P] and features [L, B, ..]."""
        ...


@dataclass(frozen=True)
class Mlp:
    """Fully connected layers with ReLU between them."""

    inputs: int
    """F"""
    hidden: tuple[int, ...]
    """Widths of the hidden layers; five fully connected layers have four of them."""
    tasks: int
    """K"""
    choices: int
    """C"""
    shared: bool = False
    """False: features [L, B, F] of the whole state, and the last layer has K * C outputs. True: features [L, B, K,
    F] of each task, and all tasks share one network with C outputs."""
    normalise: bool = False
    """Whether layer normalisation, without parameters, precedes each ReLU."""
    last_gain: float = 1.0
    """Scale of the last layer's initial weights; a small one makes an initial policy that is nearly uniform."""
    bfloat16: bool = False
    """Whether all layers but the last multiply bfloat16 numbers, twice as fast on processors that can do that.
    Parameters and outputs are float32 in any case."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Return the widths of all layers, from the inputs to the outputs."""
        return (self.inputs, *self.hidden, self.choices * (1 if self.shared else self.tasks))

    @property
    def size(self) -> int:
        """Return P, the number of parameters of one learner."""
        return sum(self._sizes())

    def initial(self, seeds: Tensor) -> Tensor:
        """Return initial parameters [L, P]: weights and biases uniform within 1 / sqrt(inputs of the layer).

        Args:
            seeds: [L] int64.
        """
        parts = []
        for number, (inputs, outputs) in enumerate(_pairs(self.widths)):
            count = torch.arange((inputs + 1) * outputs, device=seeds.device)
            drawn = random.uniform(random.bits(random.key(seeds, number)[:, None], count), torch.float32)
            gain = self.last_gain if number == len(self.widths) - 2 else 1.0
            parts.append((2 * drawn - 1) * gain / math.sqrt(inputs))
        return torch.cat(parts, 1)

    def __call__(self, flat: Tensor, features: Tensor) -> Tensor:
        """Return the outputs [L, B, K, C]."""
        hidden = features.flatten(1, 2) if self.shared else features
        layers = self.layers(flat)
        for number, (weight, bias) in enumerate(layers):
            is_last = number == len(layers) - 1
            dtype = torch.bfloat16 if self.bfloat16 and not is_last else flat.dtype
            hidden = torch.baddbmm(bias.to(dtype), hidden.to(dtype), weight.to(dtype))
            if not is_last:
                if self.normalise:
                    hidden = functional.layer_norm(hidden, hidden.shape[-1:])
                hidden = hidden.relu()
        return hidden.reshape(features.shape[0], features.shape[1], self.tasks, self.choices)

    def layers(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return weights [L, inputs, outputs] and biases [L, 1, outputs] of every layer, as views of the parameters.

        Args:
            flat: [L, P]
        """
        parts = flat.split(self._sizes(), 1)
        return [
            (weight.reshape(-1, inputs, outputs), bias[:, None])
            for (inputs, outputs), weight, bias in zip(_pairs(self.widths), parts[::2], parts[1::2], strict=True)
        ]

    def _sizes(self) -> list[int]:
        return [size for inputs, outputs in _pairs(self.widths) for size in (inputs * outputs, outputs)]


def _pairs(widths: Sequence[int]) -> list[tuple[int, int]]:
    return list(pairwise(widths))

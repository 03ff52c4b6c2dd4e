"""The pointer policy's networks: one that corrects the rule's price of a choice, and one for the value of a state.

A form as in `policies.learned.actor_critic`, for L learners at once. Its features are flat: the numbers of all choices
of all places for tasks, [K, C, COLUMNS], and those of the world, [WORLD] (`features`). Its correction is 0 at first, so
an untrained policy is the rule.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coinfer.physics import random
from coinfer.policies.heuristics.demand import DemandWeights
from coinfer.policies.learned.actor_critic import Outputs
from coinfer.policies.learned.nets import Mlp
from coinfer.policies.learned.pointer.features import COLUMNS, NAMES, WORLD

GAIN = 4.0
"""Of the correction, whose network puts out about 1."""


@dataclass(frozen=True)
class PointerNet:
    """Both networks, fully connected with ReLU."""

    choices: int
    """C, of a task at most."""
    hidden: tuple[int, ...] = (32, 32)
    """Widths of the hidden layers of both."""
    without: tuple[str, ...] = ()
    """Names of features that are hidden from the network, for ablations; the rule's price is not."""

    @property
    def heads(self) -> int:
        """Return M: each task of a slot has one, and there may be any number of tasks."""
        return 1

    @property
    def size(self) -> int:
        """Return P, the number of parameters of one learner."""
        return self._actor.size + self._critic.size

    @property
    def _actor(self) -> Mlp:
        return Mlp(len(NAMES), self.hidden, 1, 1, last_gain=0.0)

    @property
    def _critic(self) -> Mlp:
        return Mlp(WORLD, self.hidden, 1, 1)

    def initial(self, seeds: Tensor) -> Tensor:
        """Return initial parameters, [L, P]; those of a seed do not depend on the other seeds.

        Args:
            seeds: [L] int64.
        """
        return torch.cat([net.initial(random.key(seeds, n)) for n, net in enumerate((self._actor, self._critic))], 1)

    def scores(self, flat: Tensor, rows: Tensor) -> Tensor:
        """Return the scores of choices, [L, .., C].

        Args:
            flat: [L, P]
            rows: [L, .., C, COLUMNS]
        """
        base, features = rows[..., 0], rows[..., 1:]
        if self.without:
            features = features * torch.tensor([float(name not in self.without) for name in NAMES], device=flat.device)
        correction = self._actor(flat[:, : self._actor.size], features.flatten(1, -2))
        return base + GAIN * correction.reshape(base.shape)

    def actor_layers(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return weights and biases of the layers of the correction, as `Mlp.layers` does.

        Args:
            flat: [L, P]
        """
        return self._actor.layers(flat[:, : self._actor.size])

    def __call__(self, flat: Tensor, features: Tensor) -> Outputs:
        """Return scores and values, of parameters [L, P] and features [L, B, K * C * COLUMNS + WORLD], of any K."""
        shape = (-1, self.choices, COLUMNS)
        rows, world = features.split([features.shape[-1] - WORLD, WORLD], -1)
        value = self._critic(flat[:, self._actor.size :], world)
        return Outputs(self.scores(flat, rows.unflatten(-1, shape)), value[..., 0])

    def distance(self, flat: Tensor) -> Tensor:
        """Return zeros [L]: no parameters are tied.

        Args:
            flat: [L, P]
        """
        return flat.new_zeros(flat.shape[0])


class PointerPolicy(nn.Module):
    """The policy of one learner: the scores of its network, and what else a file must hold.

    Args:
        net: form of the network.
        row: [P] its parameters.
        weights: of the rule that it corrects.
        scale_s: as in `features.choice_rows`.
    """

    def __init__(self, net: PointerNet, row: Tensor, weights: DemandWeights, scale_s: float):
        super().__init__()
        self.net, self.row = net, nn.Parameter(row.detach().clone(), requires_grad=False)
        self.weights, self.scale_s = weights, scale_s

    def forward(self, rows: Tensor) -> Tensor:
        """Return the scores [T, C] of choices [T, C, COLUMNS].

        Args:
            rows: of T tasks.
        """
        return self.net.scores(self.row[None], rows[None])[0]

"""Fully connected layers over the whole slot: the network of DROO (IEEE TMC 2020) with more outputs, for comparison.

It knows tasks and servers by their place, so their numbers are fixed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from coinfer.policies.candidates import Candidates, candidates_of
from coinfer.policies.learned.features import logarithmic
from coinfer.policies.learned.imitation.packed import unpack
from coinfer.policies.learned.nets import Mlp
from coinfer.types import OffloadObservation

TIME_S = (1e-4, 1e0)
"""Ends of the logarithmic scale of times."""


@dataclass(frozen=True)
class FlatNet:
    """Form of the network, a `nets.Net`.

    Its inputs are each task's deadline and times of arrival at the servers, and each server's backlog and times for the
    options: what `graph_net.GraphNet` is given, too.
    """

    tasks: int
    """K"""
    options: int
    """O"""
    servers: int
    """N"""
    hidden: tuple[int, ...] = (120, 80)
    """Widths of the hidden layers; those of the authors of DROO."""

    @property
    def form(self) -> Mlp:
        """Return the layers."""
        inputs = self.tasks * (1 + self.servers) + self.servers * (1 + self.options)
        return Mlp(inputs, self.hidden, self.tasks, self.options * self.servers)

    @property
    def size(self) -> int:
        """Return P, the number of parameters of one learner."""
        return self.form.size

    def initial(self, seeds: Tensor) -> Tensor:
        """Return initial parameters, [L, P].

        Args:
            seeds: [L] int64.
        """
        return self.form.initial(seeds)

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
        """Return the same for observations, [.., K, C].

        Args:
            flat: [L, P] parameters.
            observation: [L, B, ..] or [L * B, ..].
            candidates: of the observation, if the caller has them already.
        """
        o = observation
        ready_s = candidates_of(o).ready_s if candidates is None else candidates.ready_s
        ready_s = ready_s.unflatten(-1, (-1, self.servers)).amin(-2)
        parts = (
            logarithmic(o.deadline_s, TIME_S),
            logarithmic(ready_s, TIME_S).flatten(-2),
            logarithmic(o.server_backlog_s, TIME_S),
            logarithmic(o.option_server_s.mean(-3), TIME_S).flatten(-2),
        )
        features = torch.cat(parts, -1)
        return self.form(flat, features.reshape(len(flat), -1, features.shape[-1])).reshape(*o.task_mask.shape, -1)

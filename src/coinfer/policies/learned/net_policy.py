"""A trained network of one learner as a policy, which takes its best choice."""

import torch
from torch import Tensor, nn

from coinfer.policies.candidates import candidates_of
from coinfer.policies.learned.features import Features
from coinfer.policies.learned.nets import Net
from coinfer.types import OffloadDecision, OffloadObservation


class NetPolicy(nn.Module):
    """The allowed choice of the greatest output; a module, so that `export` can take it.

    It computes in float64, though the network was trained in float32: the order of a sum then matters 1e-16, not 1e-7,
    and two runtimes decide alike if two choices are nearly equal.

    Args:
        net: its outputs [.., K, C] are logits or values; a choice is option * N + server.
        flat: [P], its parameters.
        features: from an observation to the network's inputs.
    """

    flat: Tensor

    def __init__(self, net: Net, flat: Tensor, features: Features):
        super().__init__()
        self.net, self.features = net, features
        self.register_buffer("flat", flat.detach()[None].clone())

    @torch.no_grad()
    def forward(self, observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
        """Return the decisions, [.., K].

        Args:
            observation: [.., K, ..] tensors or arrays, with any leading batch axes.
        """
        wide = OffloadObservation(*(_widened(torch.as_tensor(field)) for field in observation))
        candidates = candidates_of(wide)
        numbers = self.net(self.flat.double(), self.features(wide)[None])[0]
        return candidates.decision(torch.where(candidates.mask, numbers, -torch.inf).argmax(-1))


def _widened(field: Tensor) -> Tensor:
    return field.double() if field.is_floating_point() else field

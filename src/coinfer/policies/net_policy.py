"""A trained network of one learner as a policy: from an observation of tensors to its best guess."""

import torch
from torch import Tensor, nn

from coinfer.policies.choices import choices
from coinfer.policies.features import Features
from coinfer.policies.nets import Net
from coinfer.types import OffloadDecision, OffloadObservation


class NetPolicy(nn.Module):
    """Takes, of what may be chosen, the choice of the greatest number. A module, so that `export` can take it.

    Args:
        net: whose outputs [.., K, C] are logits or values; a choice is option * N + server.
        flat: [P] its parameters.
    """

    flat: Tensor

    def __init__(self, net: Net, flat: Tensor, features: Features):
        super().__init__()
        self.net, self.features = net, features
        self.register_buffer("flat", flat.detach()[None].clone())

    @torch.no_grad()
    def forward(self, observation: OffloadObservation) -> OffloadDecision:
        found = choices(observation)
        numbers = self.net(self.flat, self.features(observation)[None])[0]
        return found.decision(torch.where(found.mask, numbers, -torch.inf).argmax(-1))

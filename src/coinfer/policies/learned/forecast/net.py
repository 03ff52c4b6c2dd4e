"""The network that forecasts demand."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from coinfer.policies.heuristics.demand import FADING_S, DemandWeights


class DemandForecast(nn.Module):
    """A fully connected network with ReLU, from the demand that was to the demand to come.

    Attributes:
        weights: of the rule that asks it.

    Args:
        networks: X
        hidden: widths of the hidden layers.
        weights: of the rule that asks it; `memory_s` is how far it looks ahead.
        scale: of a demand that is usual, seconds saved for each second.
    """

    scale: Tensor

    def __init__(self, networks: int, hidden: tuple[int, ...], weights: DemandWeights, scale: float):
        super().__init__()
        widths = (len(FADING_S) * networks, *hidden, networks)
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.weights = weights
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, faded: Tensor) -> Tensor:
        """Return the demand to come, [B, X], in units of `scale`; it may be below 0.

        Args:
            faded: [B, S, X], `Memory.faded`.
        """
        found = torch.asinh(faded.flatten(1) / self.scale)
        for number, layer in enumerate(self.layers):
            found = layer(found if number == 0 else found.relu())
        return found

    def demand(self, faded: Tensor) -> Tensor:
        """Return the demand to come, [B, X], at least 0, as the file gives it.

        Args:
            faded: as in `forward`.
        """
        return self(faded).relu() * self.scale

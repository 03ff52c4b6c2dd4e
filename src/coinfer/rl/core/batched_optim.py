"""What the stacked learners share: an optimiser over [L, P], soft copies, draws from masked categoricals."""

import torch
from torch import Tensor

from coinfer.physics import random

MASKED = -1e9
"""Logit or value of a choice that may not be taken."""


class Adam:
    """Adam (Kingma, Ba 2015) over parameters [L, P] of independent learners, each with a gradient norm of its own.

    It works element by element, so no learner feels another.

    Args:
        most_norm: longer gradients of a learner are shortened to it; None leaves them.
    """

    def __init__(self, parameters: Tensor, learning_rate: float, max_grad_norm: float | None = None):
        self.parameters, self.learning_rate, self.max_grad_norm = parameters, learning_rate, max_grad_norm
        self._adam = torch.optim.Adam([parameters], lr=learning_rate, fused=True)

    def step(self, loss: Tensor, share: float = 1.0) -> None:
        """Goes down a loss [L] whose entries depend on their own learner's parameters only.

        Args:
            share: of the rate.
        """
        (slope,) = torch.autograd.grad(loss.sum(), self.parameters)
        if self.max_grad_norm is not None:
            norm = torch.linalg.vector_norm(slope, dim=1, keepdim=True)
            slope *= (self.max_grad_norm / norm.clamp(min=1e-12)).clamp(max=1.0)
        self.parameters.grad = slope
        self._adam.param_groups[0]["lr"] = self.learning_rate * share
        self._adam.step()
        self.parameters.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """Moments and count; before the first step they are what they would be at first."""
        state = self._adam.state.get(self.parameters, {})
        zeros = torch.zeros_like(self.parameters)
        moments = {name: state.get(name, zeros) for name in ("exp_avg", "exp_avg_sq")}
        return {**moments, "step": state.get("step", torch.zeros((), device=zeros.device))}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        kept = {name: part.to(self.parameters.device).clone() for name, part in tensors.items()}
        self._adam.state[self.parameters] = kept


def linear_decay(updates: int, fall: tuple[int, int] | None) -> float:
    """Share of the rates after so many updates: 1, then evenly down to 0 between the two."""
    if fall is None:
        return 1.0
    first, last = fall
    return min(1.0, max(0.0, (last - updates) / max(1, last - first)))


def add_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under `prefix.name`."""
    return {f"{prefix}.{name}": part for name, part in tensors.items()}


def strip_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `add_prefix` put there."""
    return {name.removeprefix(f"{prefix}."): part for name, part in tensors.items() if name.startswith(f"{prefix}.")}


@torch.no_grad()
def soft_update(target: Tensor, source: Tensor, share: float) -> None:
    """Polyak: the target goes this share of the way to its source."""
    target.lerp_(source, share)


def uniform(keys: Tensor, call: int, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """[L, *shape] in [0, 1), counted."""
    place = torch.arange(torch.Size(shape).numel(), device=keys.device)
    return random.uniform(random.bits(random.key(keys, call)[:, None], place), torch.float32).reshape(-1, *shape)


def sample_categorical(weights: Tensor, drawn: Tensor) -> Tensor:
    """Index into the last axis with probability in proportion to weights [.., C] of 0 or more; `drawn` [..] is uniform
    in [0, 1)."""
    reached = weights.cumsum(-1)
    found = (reached <= drawn[..., None] * reached[..., -1:]).sum(-1)
    return found.clamp(max=weights.shape[-1] - 1)


def gather_actions(values: Tensor, action: Tensor) -> Tensor:
    """Entries of values [.., C] at action [..]."""
    return values.gather(-1, action[..., None])[..., 0]

"""Numerics that the batched learners share: an optimiser over [L, P], soft updates, draws from masked categoricals."""

import torch
from torch import Tensor

from coinfer.physics import random

MASKED = -1e9
"""Logit or value of a choice that may not be taken."""


class Adam:
    """Adam (Kingma and Ba, ICLR 2015) over parameters [L, P] of independent learners.

    It works element by element, so no learner influences another.

    Args:
        parameters: [L, P], changed in place.
        max_grad_norm: the gradient of each learner is scaled down to this norm; None for no limit.
    """

    def __init__(self, parameters: Tensor, learning_rate: float, max_grad_norm: float | None = None):
        self.parameters, self.learning_rate, self.max_grad_norm = parameters, learning_rate, max_grad_norm
        self._adam = torch.optim.Adam([parameters], lr=learning_rate, fused=True)

    def step(self, loss: Tensor, scale: float = 1.0) -> None:
        """Descend a loss [L] whose entries depend on their own learner's parameters only.

        Args:
            scale: of the learning rate.
        """
        (gradient,) = torch.autograd.grad(loss.sum(), self.parameters)
        if self.max_grad_norm is not None:
            norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            gradient *= (self.max_grad_norm / norm.clamp(min=1e-12)).clamp(max=1.0)
        self.parameters.grad = gradient
        self._adam.param_groups[0]["lr"] = self.learning_rate * scale
        self._adam.step()
        self.parameters.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """Return moments and step count; before the first step, those that the first step starts from."""
        state = self._adam.state.get(self.parameters, {})
        zeros = torch.zeros_like(self.parameters)
        moments = {name: state.get(name, zeros) for name in ("exp_avg", "exp_avg_sq")}
        return {**moments, "step": state.get("step", torch.zeros((), device=zeros.device))}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` returned."""
        state = {name: part.to(self.parameters.device).clone() for name, part in tensors.items()}
        self._adam.state[self.parameters] = state


def linear_decay(updates: int, between: tuple[int, int] | None) -> float:
    """Return a factor for learning rates: 1 up to the first number of updates, then linearly down to 0 at the second.

    Without numbers it is always 1.
    """
    if between is None:
        return 1.0
    first, last = between
    return min(1.0, max(0.0, (last - updates) / max(1, last - first)))


def interpolate(ends: tuple[float, float], updates: int, span: int) -> float:
    """Return a schedule's value: linear from the first end to the second over `span` updates."""
    first, last = ends
    return first + (last - first) * min(1.0, updates / span)


def add_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the same tensors by the names `prefix.name`."""
    return {f"{prefix}.{name}": part for name, part in tensors.items()}


def strip_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that `add_prefix` named, by their own names."""
    return {name.removeprefix(f"{prefix}."): part for name, part in tensors.items() if name.startswith(f"{prefix}.")}


@torch.no_grad()
def soft_update(target: Tensor, source: Tensor, tau: float) -> None:
    """Polyak averaging, in place: target = (1 - tau) * target + tau * source."""
    target.lerp_(source, tau)


def uniform(keys: Tensor, call: int, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Return numbers [L, *shape] in [0, 1) that follow from the keys [L] and the number of the call alone."""
    place = torch.arange(torch.Size(shape).numel(), device=keys.device)
    return random.uniform(random.bits(random.key(keys, call)[:, None], place), torch.float32).reshape(-1, *shape)


def sample_categorical(weights: Tensor, drawn: Tensor) -> Tensor:
    """Return indices [..] into the last axis of `weights`, with probability in proportion to them.

    Args:
        weights: [.., C] of 0 or more.
        drawn: [..] uniform in [0, 1).
    """
    reached = weights.cumsum(-1)
    found = (reached <= drawn[..., None] * reached[..., -1:]).sum(-1)
    return found.clamp(max=weights.shape[-1] - 1)


def gather_actions(values: Tensor, action: Tensor) -> Tensor:
    """Return the entries [..] of values [.., C] at the actions [..]."""
    return values.gather(-1, action[..., None])[..., 0]

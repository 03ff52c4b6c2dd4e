"""Numerics that the batched learners share: an optimiser over [L, P], soft updates, draws from masked categoricals."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from coinfer.physics import random

MASKED = -1e9
"""Logit or value of a choice that is not allowed."""


class Optimiser(Protocol):
    """Steps over parameters [L, P] of independent learners, such as `Adam` and `RmsProp`."""

    parameters: Tensor
    """[L, P]"""

    def apply(self, gradient: Tensor, scale: float = 1.0) -> None:
        """Make one step against a gradient.

        Args:
            gradient: [L, P]; may be changed.
            scale: factor of the learning rate.
        """
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return the state that a checkpoint must hold, by name."""
        ...

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Set the state to a saved one.

        Args:
            tensors: what `tensors` returned; copied.
        """
        ...


class Adam:
    """Adam (Kingma and Ba, ICLR 2015) over parameters [L, P] of independent learners.

    It works element by element, so no learner influences another.

    Args:
        parameters: [L, P] leaf tensor that requires gradients; changed in place.
        learning_rate: before the scale that `apply` gets.
        max_grad_norm: limit to the norm of each learner's gradient, which is scaled down to it; None for no limit.
    """

    def __init__(self, parameters: Tensor, learning_rate: float, max_grad_norm: float | None = None):
        self.parameters, self.learning_rate, self.max_grad_norm = parameters, learning_rate, max_grad_norm
        self._adam = torch.optim.Adam([parameters], lr=learning_rate, fused=True)

    def apply(self, gradient: Tensor, scale: float = 1.0) -> None:
        """Make one step against a gradient.

        Args:
            gradient: [L, P]; may be changed.
            scale: factor of the learning rate, see `linear_decay`.
        """
        limit_norm(gradient, self.max_grad_norm)
        self.parameters.grad = gradient
        self._adam.param_groups[0]["lr"] = self.learning_rate * scale
        self._adam.step()
        self.parameters.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """Return moments and step count by name; before the first step, they are 0."""
        state = self._adam.state.get(self.parameters, {})
        zeros = torch.zeros_like(self.parameters)
        moments = {name: state.get(name, zeros) for name in ("exp_avg", "exp_avg_sq")}
        return {**moments, "step": state.get("step", torch.zeros((), device=zeros.device))}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Set moments and step count to saved ones.

        Args:
            tensors: what `tensors` returned; copied.
        """
        state = {name: part.to(self.parameters.device).clone() for name, part in tensors.items()}
        self._adam.state[self.parameters] = state


class RmsProp:
    """RMSProp as the paper of multi-task A3C prints it (IEEE TMC 2024, equations 23 and 24): epsilon inside the root.

    Args:
        parameters: [L, P] leaf tensor that requires gradients; changed in place.
        learning_rate: eta, before the scale that `apply` gets.
        max_grad_norm: limit to the norm of each learner's gradient, which is scaled down to it; None for no limit.
        momentum: alpha, weight of the mean square so far.
        epsilon: small number under the root.
    """

    def __init__(
        self,
        parameters: Tensor,
        learning_rate: float,
        max_grad_norm: float | None = None,
        momentum: float = 0.99,
        epsilon: float = 1e-5,
    ):
        self.parameters, self.learning_rate, self.max_grad_norm = parameters, learning_rate, max_grad_norm
        self.momentum, self.epsilon = momentum, epsilon
        self.mean_square = torch.zeros_like(parameters, requires_grad=False)

    @torch.no_grad()
    def apply(self, gradient: Tensor, scale: float = 1.0) -> None:
        """Make one step against a gradient.

        Args:
            gradient: [L, P]; may be changed.
            scale: factor of the learning rate, see `linear_decay`.
        """
        limit_norm(gradient, self.max_grad_norm)
        self.mean_square.lerp_(gradient.square(), 1 - self.momentum)
        self.parameters.sub_(gradient / (self.mean_square + self.epsilon).sqrt(), alpha=self.learning_rate * scale)

    def tensors(self) -> dict[str, Tensor]:
        """Return the mean square of the gradients, by name."""
        return {"mean_square": self.mean_square}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Set the mean square to a saved one.

        Args:
            tensors: what `tensors` returned; copied.
        """
        self.mean_square.copy_(tensors["mean_square"])


def descend(optimiser: Optimiser, loss: Tensor, scale: float = 1.0) -> None:
    """Make one step of gradient descent.

    Args:
        optimiser: whose parameters change.
        loss: [L] each entry depending on its own learner's parameters only, with its graph.
        scale: factor of the learning rate, see `linear_decay`.
    """
    (gradient,) = torch.autograd.grad(loss.sum(), optimiser.parameters)
    optimiser.apply(gradient, scale)


def limit_norm(gradient: Tensor, most: float | None) -> None:
    """Scale each learner's gradient down to a norm, in place.

    Args:
        gradient: [L, P]
        most: greatest norm; None for no limit.
    """
    if most is not None:
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        gradient *= (most / norm.clamp(min=1e-12)).clamp(max=1.0)


def linear_decay(updates: int, between: tuple[int, int] | None) -> float:
    """Return a factor in [0, 1] for learning rates, which falls linearly.

    Args:
        updates: updates done so far.
        between: updates until which the factor is 1, and from which it is 0; None for a factor that stays 1.
    """
    if between is None:
        return 1.0
    first, last = between
    return min(1.0, max(0.0, (last - updates) / max(1, last - first)))


def interpolate(ends: tuple[float, float], updates: int, span: int) -> float:
    """Return the value of a linear schedule.

    Args:
        ends: values at first and at last.
        updates: updates done so far.
        span: updates from the first value to the last, at least 1; afterwards the last one stays.
    """
    first, last = ends
    return first + (last - first) * min(1.0, updates / span)


def add_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the same tensors under the names `prefix.name`.

    Args:
        prefix: without the dot.
        tensors: tensors by name; not copied.
    """
    return {f"{prefix}.{name}": part for name, part in tensors.items()}


def strip_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that `add_prefix` named with this prefix, under their own names.

    Args:
        prefix: without the dot.
        tensors: tensors by name; those with other prefixes are left out.
    """
    return {name.removeprefix(f"{prefix}."): part for name, part in tensors.items() if name.startswith(f"{prefix}.")}


@torch.no_grad()
def soft_update(target: Tensor, source: Tensor, tau: float) -> None:
    """Average in place (Polyak): target = (1 - tau) * target + tau * source.

    Args:
        target: parameters to change.
        source: parameters of the same shape.
        tau: weight of the source, in [0, 1].
    """
    target.lerp_(source, tau)


def uniform(keys: Tensor, call: int, shape: torch.Size | tuple[int, ...], calls: int | None = None) -> Tensor:
    """Return random numbers [L, *shape] in [0, 1) that depend on keys and call only.

    Args:
        keys: [L] int64, one for each learner.
        call: number of this draw.
        shape: shape of each learner's numbers.
        calls: number of draws that follow on each other, which come as [calls, L, *shape]; one of them without it.
    """
    count = torch.Size(shape).numel()
    if keys.is_cpu:  # by NumPy, which is faster for few numbers
        numbers = call + np.arange(calls or 1)[:, None]
        bits = torch.from_numpy(random.bits(random.key(keys.numpy(), numbers)[..., None], np.arange(count)))
    else:
        numbers = call + torch.arange(calls or 1, device=keys.device)[:, None]
        bits = random.bits(random.key(keys, numbers)[..., None], torch.arange(count, device=keys.device))
    drawn = random.uniform(bits, torch.float32).reshape(-1, len(keys), *shape)
    return drawn if calls else drawn[0]


def sample_categorical(weights: Tensor, drawn: Tensor) -> Tensor:
    """Return drawn indices [..] into the last axis of `weights`, with probabilities in proportion to the weights.

    Args:
        weights: [.., C] of at least 0, and one above 0.
        drawn: [..] uniform random numbers in [0, 1).
    """
    cumulated = weights.cumsum(-1)
    index = (cumulated <= drawn[..., None] * cumulated[..., -1:]).sum(-1)
    return index.clamp(max=weights.shape[-1] - 1)


def gather_actions(values: Tensor, action: Tensor) -> Tensor:
    """Return the value [..] of each action.

    Args:
        values: [.., C] of all choices.
        action: [..] int64 indices into the last axis.
    """
    return values.gather(-1, action[..., None])[..., 0]

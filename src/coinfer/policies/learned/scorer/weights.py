"""The weights of `policy`: their shapes, limits and initial values, and the flat form that training and files use."""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.policies.learned.scorer.features import STEPS, to_steps

HIDDEN, ORDERS = 8, 8
PAIR, TASK, SERVER, WORLD = 8, 7, 6, 7
"""Features of each kind."""
MAX_WEIGHT, MAX_KEY, MAX_HIDDEN = 2.0, 4.0, 3.75
"""With these limits, the sum over 28 features (of -2 to 1 or 0 to 1) and a bias, and the sum over all hidden values,
are less than 62, which is 24 bits in steps of steps."""


class Weights(NamedTuple):
    """Weights of P policies side by side, every array [P, ..]."""

    pair: Tensor
    """[P, PAIR, HIDDEN]; those of task, server and world likewise."""
    task: Tensor
    server: Tensor
    world: Tensor
    first_bias: Tensor
    """[P, HIDDEN]"""
    prices: Tensor
    """[P, HIDDEN, 3], to the price of the choice, the price of each second of service, and the slope."""
    prices_bias: Tensor
    key: Tensor
    """[P, TASK, ORDERS], or fewer orders."""
    insertion: Tensor
    """[P, ORDERS] 1 if a task may be inserted before others in the prediction, 0 if it joins the end; in between, if
    it is ready early enough."""
    late: Tensor
    """[P, 1] price of a late task."""


SHAPES = {
    "pair": (PAIR, HIDDEN),
    "task": (TASK, HIDDEN),
    "server": (SERVER, HIDDEN),
    "world": (WORLD, HIDDEN),
    "first_bias": (HIDDEN,),
    "prices": (HIDDEN, 3),
    "prices_bias": (3,),
    "key": (TASK, ORDERS),
    "insertion": (ORDERS,),
    "late": (1,),
}
SIZE = sum(torch.Size(shape).numel() for shape in SHAPES.values())
"""Number of weights of one policy with all orders."""


def greedy_weights(seed: int = 0) -> Tensor:
    """Return weights [SIZE] that decide as sequential greedy does; only the first layer is random.

    Args:
        seed: of the first layer.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for name, shape in SHAPES.items():
        if name in ("pair", "task", "server", "world"):
            scale = (2.0 / (PAIR + TASK + SERVER + WORLD)) ** 0.5
            parts.append(scale * torch.randn(shape, generator=generator))
        else:
            parts.append(torch.zeros(shape))
    return torch.cat([part.flatten() for part in parts])


def initial_weights(seed: int = 0) -> Tensor:
    """Return weights [SIZE] as `greedy_weights`, but with several orders and insertion, for training to start from.

    The orders are: as numbered, by readiness and work, by work, by readiness, and random ones.

    Args:
        seed: of the first layer and of the random orders.
    """
    generator = torch.Generator().manual_seed(seed)
    key = torch.randn((TASK, ORDERS), generator=generator)
    key[:, :4] = 0
    key[_KEYS["ready"], [1, 3]] = 1
    key[_KEYS["service"], 1] = 1
    key[_KEYS["service"], 2] = -1
    flat = greedy_weights(seed)
    return torch.cat((flat[: -1 - ORDERS - key.numel()], key.flatten(), torch.ones(ORDERS), flat[-1:]))


_KEYS = {"ready": 2, "service": 3}
"""Numbers of the task features of its best choice."""


def unpack(flat: Tensor) -> Weights:
    """Return weights, limited and rounded to whole steps, from flat ones.

    Args:
        flat: [P, SIZE], or fewer columns if some orders were left out (`select_orders`).
    """
    orders = ORDERS - (SIZE - flat.shape[-1]) // (TASK + 1)
    shapes = {**SHAPES, "key": (TASK, orders), "insertion": (orders,)}
    parts = flat.split([torch.Size(shape).numel() for shape in shapes.values()], dim=-1)
    named = zip(shapes.items(), parts, strict=True)
    return Weights(*(_limited(name, part).reshape(-1, *shape) for (name, shape), part in named))


def _limited(name: str, part: Tensor) -> Tensor:
    low, high = {"key": (-MAX_KEY, MAX_KEY), "insertion": (0.0, 1.0), "late": (0.0, MAX_WEIGHT)}.get(
        name, (-MAX_WEIGHT, MAX_WEIGHT)
    )
    return to_steps(part.clamp(low, high)) / STEPS


def select_orders(flat: Tensor, orders: list[int]) -> Tensor:
    """Return the flat weights of one policy with some of its orders only.

    Args:
        flat: [SIZE], with all orders.
        orders: numbers of the orders to take.
    """
    weights = unpack(flat[None])
    selected = weights._replace(key=weights.key[..., orders], insertion=weights.insertion[..., orders])
    return torch.cat([part.flatten() for part in selected])

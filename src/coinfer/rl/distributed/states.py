"""Messages between the processes of a training, as NumPy arrays: steps [S, W, ..], batches [S, n, ..], and states by
name, of all S * k learners or of the S learners of one agent."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from coinfer.rl.core.loop import Point
from coinfer.rl.core.records import Transition

Array = npt.NDArray[np.generic]
Arrays = dict[str, Array]
"""A state, by name."""
Parts = tuple[Array, ...]
"""The fields of a `Transition`."""


def split_state(whole: Mapping[str, Tensor], agents: int, like: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return the state of a loop of S * k learners as the states of k loops of S learners, without the replay memory.

    Args:
        whole: the state by name, or a part of it.
        agents: k, the number of agents.
        like: a complete state, for the number of learners.
    """
    count = _learners(like)
    parts = [dict[str, Tensor]() for _ in range(agents)]
    for name, tensor in whole.items():
        if name.startswith("replay."):
            continue
        for part, rows in zip(parts, _rows(name, tensor, count, agents), strict=True):
            part[name] = rows
    return parts


def merge_states(parts: Sequence[Mapping[str, Tensor]], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of all S * k learners from the states of k agents: the inverse of `split_state`.

    Args:
        parts: the agents' states, in their order.
        like: a complete state of the loop of all agents.
    """
    agents, whole = len(parts), dict[str, Tensor]()
    seeds = _learners(like) // agents
    for name, first in parts[0].items():
        if not first.dim() or (name in like and like[name].shape == first.shape):
            whole[name] = first
            continue
        copies = len(first) // seeds
        shape = (copies, seeds) if name.startswith("learner.") else (seeds, copies)
        by_agent = [part[name].unflatten(0, shape) for part in parts]
        dim = 2 if name.startswith("learner.") else 1
        whole[name] = torch.stack(by_agent, dim).flatten(0, 2)
    return whole


def _rows(name: str, tensor: Tensor, count: int, agents: int) -> list[Tensor]:
    """Return each agent's part of a tensor of all `count` learners, in which twins are the outermost and worlds the
    innermost axis; all agents get a tensor that does not belong to learners."""
    if not tensor.dim() or len(tensor) % count or not len(tensor):
        return [tensor] * agents
    copies, seeds = len(tensor) // count, count // agents
    if name.startswith("learner."):
        return [tensor.unflatten(0, (copies, seeds, agents))[:, :, i].flatten(0, 1) for i in range(agents)]
    return [tensor.unflatten(0, (seeds, agents, copies))[:, i].flatten(0, 1) for i in range(agents)]


def _learners(like: Mapping[str, Tensor]) -> int:
    return len(like["learner.mean_reward"])


def merge_points(points: Sequence[Point]) -> Point:
    """Return the point of all learners.

    Args:
        points: the agents' points of the same round, in their order.
    """
    names = points[0].figures
    figures = {name: np.array([point.figures[name] for point in points]).T.flatten().tolist() for name in names}
    return Point(points[0].round, figures)


def to_parts(tensors: Sequence[Tensor]) -> Parts:
    """Return a transition's tensors as arrays.

    Args:
        tensors: the fields of a `Transition`, on any device.
    """
    return tuple(part.detach().cpu().numpy() for part in tensors)


def to_transition(parts: Parts, device: str | torch.device) -> Transition:
    """Return a transition from its arrays.

    Args:
        parts: what `to_parts` returned; copied.
        device: PyTorch device of the tensors.
    """
    return Transition(*(torch.tensor(part, device=device) for part in parts))


def to_arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    """Return a state as arrays.

    Args:
        tensors: the state by name, on any device.
    """
    return {name: part.detach().cpu().numpy() for name, part in tensors.items()}


def to_tensors(arrays: Arrays, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Return a state as tensors.

    Args:
        arrays: what `to_arrays` returned; copied.
        device: PyTorch device of the tensors.
    """
    return {name: torch.tensor(part, device=device) for name, part in arrays.items()}

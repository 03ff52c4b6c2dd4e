"""Quantisers: from a network's outputs to the few decisions that are worth scoring, for learning by imitation.

Letters: N binary decisions, or K tasks with C choices each; S candidates. The first candidate is always the network's
own decision, no candidate comes twice, and nearer ones come first. Ties are broken by index, so equal outputs give
distinct candidates, too.
"""

from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from coinfer.physics import random
from coinfer.policies.candidates import divide

Array = TypeVar("Array", Tensor, np.ndarray)
MAX_NEAREST = 12
"""`nearest` compares with 2^N decisions; this is the largest N that it takes."""


def order_preserving(logits: Array, count: int) -> Array:
    """Return binary candidates that keep the order of the outputs (DROO, IEEE TMC 2020, equations 8 and 9).

    In each candidate the ones are the devices of the greatest outputs: the network's own decision first, then the
    thresholds at the outputs nearest to 1/2.

    Args:
        logits: [.., N] outputs before the sigmoid, a tensor or an array.
        count: S, at least 1; more than N + 1 give N + 1.

    Returns:
        [.., S, N] bool, of the same library.
    """
    rank, index = _rank(-logits), _index(logits)
    sends = logits > 0
    ones = ((_rank(abs(logits))[..., None] == index) * (rank + ~sends)[..., None]).sum(-2)
    first = rank[..., None, :] < sends.sum(-1)[..., None, None]
    return _library(logits).concatenate((first, rank[..., None, :] < ones[..., : count - 1, None]), -2)


def _rank(values: Any) -> Any:
    """Return the place [.., N] of each value in ascending order, ties by index."""
    if isinstance(values, np.ndarray):
        return values.argsort(-1, stable=True).argsort(-1)
    index = _index(values)  # a stable sort would not export
    one, other = values[..., :, None], values[..., None, :]
    return ((other < one) | ((other == one) & (index < index[:, None]))).sum(-1)


def noisy_order_preserving(logits: Array, count: int, noise: Array) -> Array:
    """Return order-preserving candidates of the outputs, and as many of each noisy copy of them.

    LyDROO (Bi, Huang, Wang, Zhang, IEEE TWC 2021) has one copy.

    Args:
        logits: [.., N] outputs before the sigmoid, a tensor or an array.
        count: S, at least 1; each copy gives S / (R + 1), rounded down, and the outputs themselves the rest.
        noise: [.., R, N] added to the outputs; the paper draws it from a standard normal distribution.

    Returns:
        [.., S, N] bool. What is there already is left out for what comes next in the order of some outputs; none comes
        twice if S is at most N + 1.
    """
    xp, own = _library(logits), logits[..., None, :]
    copies, devices = noise.shape[-2:]
    every = order_preserving(xp.concatenate((own, own + noise), -2), devices + 1)
    every = every.reshape(*logits.shape[:-1], -1, devices)
    code = (every * _codes(devices, None if xp is np else logits.device)).sum(-1)
    index = _index(code)
    known = ((code[..., None] == code[..., None, :]) & (index < index[:, None])).any(-1)
    share = count // (copies + 1)
    beyond = index % (devices + 1) >= xp.where(index > devices, share, count - copies * share)
    chosen = ((2 * known + beyond) * len(index) + index).argsort(-1)[..., :count]
    rows = every.reshape(-1, *every.shape[-2:])
    taken = rows[_index(rows, 0)[:, None], chosen.reshape(-1, chosen.shape[-1])]
    return taken.reshape(*chosen.shape, devices)


def binary_candidates(logits: Tensor, count: int, noise: Tensor | None) -> Tensor:
    """Return what `noisy_order_preserving` does, or `order_preserving` without noise, as fast as the device allows.

    Tensors on the CPU are computed as NumPy arrays, whose operations on few numbers take a third of the time.

    Args:
        logits: [.., N] outputs before the sigmoid; needs no gradient.
        count: S, at least 1.
        noise: [.., R, N] added to the outputs; None for no copies.

    Returns:
        [.., S, N] bool.
    """
    if not logits.is_cpu:
        return order_preserving(logits, count) if noise is None else noisy_order_preserving(logits, count, noise)
    if noise is None:
        return torch.from_numpy(order_preserving(logits.numpy(), count))
    return torch.from_numpy(noisy_order_preserving(logits.numpy(), count, noise.numpy()))


@cache
def _codes(devices: int, device: torch.device | None) -> Any:
    """Return an int64 for each device [N], such that sums of different ones practically never are the same."""
    codes = random.bits(torch.tensor(0), torch.arange(devices))
    return codes.numpy() if device is None else codes.to(device)


def _library(values: Any) -> Any:
    """Return NumPy for arrays and torch for tensors; on small arrays NumPy takes a third of the time."""
    return np if isinstance(values, np.ndarray) else torch


def _index(values: Any, axis: int = -1) -> Any:
    count = values.shape[axis]
    return np.arange(count) if isinstance(values, np.ndarray) else torch.arange(count, device=values.device)


def nearest(logits: Tensor, count: int) -> Tensor:
    """Return the binary decisions that are nearest to the outputs (DROO's KNN), for few devices.

    Args:
        logits: [.., N] outputs before the sigmoid, N at most `MAX_NEAREST`.
        count: S, at least 1; more than 2^N give 2^N.

    Returns:
        [.., S, N] bool.

    Raises:
        ValueError: if N is larger.
    """
    devices = logits.shape[-1]
    if devices > MAX_NEAREST:
        raise ValueError(f"{devices} devices: nearest neighbours are for at most {MAX_NEAREST}")
    bits = torch.arange(devices, device=logits.device)
    every = ((torch.arange(2**devices, device=logits.device)[:, None] >> bits) & 1) > 0
    own = logits > 0
    differs = every != own[..., None, :]
    # (1 - p)^2 - p^2 = 1 - 2 p: what a device's change adds to the squared distance
    farther = (logits.double().abs() / 2).tanh()
    distance = (differs * farther[..., None, :]).sum(-1) + 1e-12 * differs.sum(-1)
    return every[distance.argsort(dim=-1, stable=True)[..., :count]]


def order_preserving_choices(logits: Tensor, mask: Tensor, count: int) -> Tensor:
    """Return candidates of K tasks that keep the order of the outputs: `order_preserving` for one of many choices.

    Each candidate after the first is what the network would decide if one choice's output were raised for all tasks,
    by just so much that one more task takes it. With two choices these are the candidates of `order_preserving`.

    Args:
        logits: [.., K, C] outputs.
        mask: [.., K, C] true for allowed choices; each task has one.
        count: S, at least 1; more than 1 + K (C - 1) give that many.

    Returns:
        [.., S, K] int64 choices. If fewer decisions are allowed, the first candidate fills the rest.
    """
    gap, own = _gaps(logits, mask)
    task, choice, allowed = _smallest(gap, count)
    of_choice = gap.transpose(-1, -2).gather(-2, choice[..., None].expand(*choice.shape, gap.shape[-2]))
    last, number = of_choice.gather(-1, task[..., None]), torch.arange(gap.shape[-2], device=gap.device)
    nearer = (of_choice < last) | ((of_choice == last) & (number <= task[..., None]))
    moved = nearer & (of_choice < torch.inf) & allowed[..., None]
    return _moved(own, choice, moved)


def fixed_gumbel(copies: int, tasks: int, choices: int) -> Tensor:
    """Return noise [R, K, C] of Gumbel's distribution that is always the same, float64.

    The greatest of outputs and such noise is a sample of their softmax. A policy that is exported takes it instead of
    random numbers; it is hashed from the places in whole numbers below 2^49, which float64 holds exactly, so that all
    runtimes have the same.

    Args:
        copies: R.
        tasks: K, below 4096.
        choices: C, below 4096.
    """
    prime = 2**24 - 3
    copy, task, choice = (torch.arange(size).double() + 1 for size in (copies, tasks, choices))
    place = (copy[:, None, None] * 4099 + task[:, None]) * 4001 + choice
    mixed = _remainder(place * 48_271, prime)
    for _ in range(2):
        mixed = _remainder(mixed * mixed + place, prime)
    return -(-((mixed + 0.5) / prime).log()).log()


def _remainder(value: Tensor, by: int) -> Tensor:
    return value - (value / by).floor() * by


def single_changes(logits: Tensor, mask: Tensor, count: int) -> Tensor:
    """Return candidates of K tasks in which one task leaves the network's own decision, the least certain first.

    Args:
        logits: [.., K, C] outputs.
        mask: [.., K, C] true for allowed choices; each task has one.
        count: S, at least 1; more than 1 + K (C - 1) give that many.

    Returns:
        [.., S, K] int64 choices. If fewer decisions are allowed, the first candidate fills the rest.
    """
    gap, own = _gaps(logits, mask)
    task, choice, allowed = _smallest(gap, count)
    moved = (torch.arange(gap.shape[-2], device=gap.device) == task[..., None]) & allowed[..., None]
    return _moved(own, choice, moved)


def _moved(own: Tensor, choice: Tensor, moved: Tensor) -> Tensor:
    """Return the best choices [.., K] as the first candidate, then one for each choice [.., S - 1] that tasks take."""
    own = own[..., None, :]
    return torch.cat((own, torch.where(moved, choice[..., None], own)), -2)


def _gaps(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return by how much each choice [.., K, C] is behind the task's best one, infinite for the best one itself and
    for those that are not allowed, and the best choices [.., K]."""
    allowed = logits.masked_fill(~mask, -torch.inf)
    best, own = allowed.max(-1, keepdim=True)
    return (best - allowed).scatter(-1, own, torch.inf), own[..., 0]


def _smallest(gap: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return task, choice and whether it is allowed, each [.., S - 1], of the smallest gaps [.., K, C]."""
    tasks, choices = gap.shape[-2:]
    flat = gap.flatten(-2)
    if torch.compiler.is_exporting():  # ONNX has no stable sort and any number of tasks; TopK keeps the order of ties
        place = flat.argsort(-1)[..., : count - 1]
    else:
        place = flat.argsort(dim=-1, stable=True)[..., : min(count - 1, tasks * (choices - 1))]
    return *divide(place, choices), flat.gather(-1, place) < torch.inf

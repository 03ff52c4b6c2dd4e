"""The networks of `policy`: from an observation to the keys of its tasks and the scores of their actions."""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.policies.candidates import Candidates, candidates_of, predicted_s
from coinfer.policies.learned.scorer.features import MAX_S, STEPS, features
from coinfer.policies.learned.scorer.weights import MAX_HIDDEN, Weights
from coinfer.types import OffloadObservation

PRICE_SCALE_S, START_SCALE_S = 0.05, 0.2
MAX_DISCOUNT, SLOPES = 0.5, (0.8, 1.25)
"""A price is between minus this part of the predicted latency of the choice and all of it, and a slope between these
two: so learned weights can do only limited harm in situations unlike those of training."""


class Rows(NamedTuple):
    """Terms of the score of every task's C = O * N + 1 actions, all [B, K, C].

    The last action is the best option on the task's device, which joins no queue.
    """

    ready_s: Tensor
    service_s: Tensor
    slope: Tensor
    """The score is start * slope + fixed."""
    fixed_s: Tensor


class Actions(NamedTuple):
    """Every task's actions; see `Rows` for the axes."""

    rows: Rows
    price_s: Tensor
    """[B, K, C]"""
    local: Tensor
    """[B, K] option of the last action."""


def run_networks(weights: Weights, observation: OffloadObservation[Tensor]) -> tuple[Tensor, Actions]:
    """Return keys [B, K, ORDERS] and the actions of every task.

    Args:
        weights: of P policies, of the same number type as the observation.
        observation: [B, K, ..] with B = P * W.
    """
    candidates = candidates_of(observation)
    latency_s = predicted_s(candidates, observation.server_backlog_s)
    pair, task, server, world = features(observation, candidates, latency_s)
    latency_s = latency_s.clamp(max=MAX_S)
    sends = (~candidates.on_device).to(pair.dtype)[..., None]
    server_part = _matmul(server, weights.server)
    server_part = server_part.repeat(1, candidates.mask.shape[-1] // candidates.servers, 1)[:, None] * sends
    task_part = _matmul(task, weights.task)[:, :, None]
    world_part = _add_bias(_matmul(world[:, None], weights.world), weights.first_bias * STEPS)[:, :, None]
    hidden = _matmul(pair, weights.pair) + server_part + (task_part + world_part)
    hidden = hidden.clamp(0.0, MAX_HIDDEN * STEPS).round()
    prices = _add_bias(_matmul(hidden, weights.prices), weights.prices_bias * STEPS) / STEPS
    price, by_service, steep = prices.unbind(-1)
    others = (1 - 1 / observation.task_mask.sum(-1).clamp(min=1).to(price.dtype))[:, None, None]
    price_s = (price * PRICE_SCALE_S + by_service * candidates.service_s) * others
    price_s = torch.minimum(torch.maximum(price_s, -MAX_DISCOUNT * latency_s), latency_s)
    slope = (1 + steep * others * candidates.service_s / START_SCALE_S).clamp(*SLOPES)
    return _matmul(task, weights.key), action_terms(candidates, price_s, slope)


def action_terms(candidates: Candidates, price_s: Tensor, slope: Tensor) -> Actions:
    """Return the actions of every task: all choices on servers, then the best choice on the device.

    Args:
        candidates: [B, K, C]
        price_s: [B, K, C]
        slope: [B, K, C]
    """
    sent = candidates.mask & ~candidates.on_device
    on_device = candidates.mask & candidates.on_device
    score_s = torch.where(on_device, candidates.ready_s + price_s, torch.inf)
    local = score_s.argmin(-1, keepdim=True)
    local_s = score_s.gather(-1, local)
    ready_s = torch.where(sent, candidates.ready_s, 0.0)
    own_s, own_price_s = (part.gather(-1, local) for part in (candidates.ready_s, price_s))
    zero = torch.zeros_like(local_s)
    price_s = torch.where(sent, price_s, 0.0)
    fixed_s = torch.where(sent, candidates.service_s + price_s + (1 - slope) * ready_s, torch.inf)
    pairs = (
        (ready_s, own_s),
        (candidates.service_s, zero),
        (slope, zero),
        (fixed_s, local_s),
        (price_s, own_price_s),
    )
    *rows, prices_s = (torch.cat(pair, -1) for pair in pairs)
    return Actions(Rows(*rows), prices_s, torch.div(local[..., 0], candidates.servers, rounding_mode="floor"))


def _matmul(values: Tensor, matrix: Tensor) -> Tensor:
    """Return [P * W, .., F] times [P, F, H]."""
    policies = matrix.shape[0]
    if policies == 1:
        return values @ matrix[0]
    flat = values.reshape(policies, -1, values.shape[-1])
    return torch.bmm(flat, matrix).reshape(*values.shape[:-1], matrix.shape[-1])


def _add_bias(values: Tensor, bias: Tensor) -> Tensor:
    """Return [P * W, .., H] plus [P, H]."""
    policies = bias.shape[0]
    if policies == 1:
        return values + bias[0]
    flat = values.reshape(policies, -1, values.shape[-1])
    return (flat + bias[:, None]).reshape(values.shape)

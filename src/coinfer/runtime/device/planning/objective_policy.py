"""The policy that meets an objective as well as latency, accuracy and energy can be predicted."""

from collections.abc import Callable
from functools import partial

import numpy as np

from coinfer.physics.compute import transmit_j
from coinfer.physics.radio import upload_s
from coinfer.runtime.device.objective import Objective
from coinfer.runtime.device.planning.observation import feasible_latency_s, least_latency
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation, Policy


def policy_for(
    objective: Objective,
    to_mean: Callable[[OffloadObservation[np.ndarray]], OffloadObservation[np.ndarray]] | None = None,
    computes: np.ndarray | None = None,
) -> Policy[np.ndarray]:
    """Return the policy of an objective; for latency alone that is the faster `least_latency`.

    Args:
        objective: goal and limits.
        to_mean: turns the observation of a request into that of the mean request, if some requests exit early; see
            `choose`. None if none do.
        computes: [O] as for `physics.latency.offload_ready_s`.
    """
    plain = objective.goal == "latency" and not objective.min_accuracy and not objective.counts_energy
    if plain and to_mean is None:
        return least_latency if computes is None else partial(least_latency, computes=computes)
    return lambda observation: choose(objective, observation, to_mean and to_mean(observation), computes)


def choose(
    objective: Objective,
    observation: OffloadObservation[np.ndarray],
    mean: OffloadObservation[np.ndarray] | None = None,
    computes: np.ndarray | None = None,
) -> OffloadDecision[np.ndarray]:
    """Return the best option and server of each of K tasks.

    Latency, accuracy and energy limits, in this order, each exclude the choices that miss them, unless none would be
    left. Among the rest, choices that exceed a missed limit by the least win, then those best for the goal, then the
    fastest.

    Args:
        objective: goal, least accuracy and transmit power; the other limits are the observation's.
        observation: of a request that takes no early exit; limits are judged by it.
        mean: of the mean request; goal and latency are judged by it. None stands for `observation`.
        computes: [O] as for `physics.latency.offload_ready_s`.

    Returns:
        Option [K] and server [K], which is `DEVICE` for what stays there.
    """
    latency_s = feasible_latency_s(observation, computes)
    costs = _costs(objective, observation, latency_s)
    means = costs if mean is None else _costs(objective, mean, feasible_latency_s(mean, computes))
    limits = {
        "latency": observation.deadline_s,
        "accuracy": np.full(len(latency_s), -objective.min_accuracy),
        "energy": observation.energy_left_j,
    }
    candidates = np.isfinite(latency_s)
    misses = []
    for name, limit in limits.items():
        with np.errstate(invalid="ignore"):  # what is impossible against what is not limited
            excess = costs[name] - np.asarray(limit)[:, None, None]
        candidates = _where_any(candidates, candidates & (excess <= 0))
        misses.append(excess.clip(0))
    for cost in (*misses, means[objective.goal], means["latency"]):
        candidate_cost = np.where(candidates, cost, np.inf)
        candidates = candidates & (candidate_cost <= candidate_cost.min(axis=(1, 2), keepdims=True))
    tasks, _, nodes = latency_s.shape
    best = candidates.reshape(tasks, -1).argmax(axis=1)
    option, server = best // nodes, best % nodes
    return OffloadDecision(option=option, server=np.where(server == nodes - 1, DEVICE, server))


def _costs(
    objective: Objective, observation: OffloadObservation[np.ndarray], latency_s: np.ndarray
) -> dict[str, np.ndarray]:
    """Return latency, negative accuracy and energy, each [K, O, N + 1]; less is better."""
    accuracy = np.asarray(observation.option_accuracy)[..., None]
    return {
        "latency": latency_s,
        "accuracy": -np.broadcast_to(accuracy, latency_s.shape),
        "energy": device_energy_j(objective, observation),
    }


def device_energy_j(objective: Objective, observation: OffloadObservation[np.ndarray]) -> np.ndarray:
    """Return the predicted energy [K, O, N + 1] of the device for computing and sending (SAC-d, WCNC 2022, equation 3).

    The last column is for what stays on the device.

    Args:
        objective: its transmit power counts; the energy of computing is in the observation.
        observation: K tasks with O options, N servers.
    """
    sent_s = upload_s(observation.option_upload_bits[..., None], observation.uplink_bps[:, None, :])
    sent_s = np.concatenate([sent_s, np.zeros((*sent_s.shape[:2], 1))], axis=-1)
    return observation.option_device_j[..., None] + transmit_j(objective.transmit_power_w, sent_s)


def _where_any(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return `after` for tasks in which it leaves something, else `before`; [K, O, N + 1]."""
    return np.where(after.any(axis=(1, 2), keepdims=True), after, before)

"""The critic of GRLE and its kin: what a decision of a slot is worth by the physics, on what is believed.

It serves a slot as the environment does (`envs.offload`), first come, first served, but from an observation: believed
rates, expected computing times, observed queues. The truth is not asked; given a true observation, the critic knows it.
"""

import torch
from torch import Tensor

from coinfer.physics.queueing import pairwise_finish_s
from coinfer.physics.rewards import early_exit_reward
from coinfer.policies.candidates import Candidates, candidates_of, divide
from coinfer.types import OffloadObservation

LATENESS_WEIGHT, MOST_LATE = 1e-3, 100.0
"""What a late task costs for each deadline that it takes, up to so many deadlines."""


class Critic:
    """Scores decisions of a slot by the summed reward of GRLE (`physics.rewards.early_exit_reward`).

    All late tasks have the same reward there. Here the less late of two is a little better, or else nothing keeps late
    tasks from one server, whose queue then outlasts the slot; no task in time is given up for it.

    Args:
        latency_weight: eta, share of the accuracy that is lost at the deadline.
        late_penalty: psi, at least 0.
    """

    def __init__(self, latency_weight: float, late_penalty: float):
        self.latency_weight, self.late_penalty = latency_weight, late_penalty

    def __call__(
        self, observation: OffloadObservation[Tensor], choice: Tensor, candidates: Candidates | None = None
    ) -> Tensor:
        """Return the score of each decision, [.., S]; greater is better.

        Args:
            observation: [.., K, ..] what is believed.
            choice: [.., S, K] int64 S decisions, as entries of `candidates_of(observation)`.
            candidates: of the observation, if the caller has them already.
        """
        candidates = candidates or candidates_of(observation)
        latency_s, served = slot_latency_s(observation, choice, candidates)
        deadline_s = observation.deadline_s[..., None, :].expand(choice.shape)
        accuracy = _chosen(candidates.accuracy, choice)
        in_time = served & (latency_s <= deadline_s)
        value = early_exit_reward(
            accuracy,
            latency_s,
            deadline_s,
            in_time,
            latency_weight=self.latency_weight,
            late_penalty=self.late_penalty,
        )
        lateness = LATENESS_WEIGHT * (latency_s / deadline_s).clamp(max=MOST_LATE) * ~in_time
        return ((value - lateness) * observation.task_mask[..., None, :]).sum(-1)


def slot_latency_s(
    observation: OffloadObservation[Tensor], choice: Tensor, candidates: Candidates
) -> tuple[Tensor, Tensor]:
    """Return the believed latency of every task in S decisions, and whether its server takes it, both [.., S, K].

    The latency means nothing for a task that its server refuses.

    Args:
        observation: [.., K, ..] what is believed.
        choice: [.., S, K] int64 entries of `candidates`.
        candidates: of the observation.
    """
    ready_s, service_s = (_chosen(part, choice) for part in (candidates.ready_s, candidates.service_s))
    sends = ~_chosen(candidates.on_device, choice)
    _, server = divide(choice, candidates.servers)
    asks = sends & observation.task_mask[..., None, :]
    free_s = _of_server(observation.server_backlog_s, server)
    room = _of_server(observation.server_room, server)
    admitted = asks & (_places_before(server, asks) < room)
    served_s = pairwise_finish_s(server, ready_s, service_s, admitted, free_s)
    return torch.where(sends, served_s, ready_s).clamp(max=1e9), admitted | ~sends


def _places_before(server: Tensor, asks: Tensor) -> Tensor:
    """Return how many tasks of lower number ask the same server, [.., K]: the order of `queueing.admission`."""
    number = torch.arange(server.shape[-1], device=server.device)
    before = (server[..., :, None] == server[..., None, :]) & asks[..., None, :] & (number < number[:, None])
    return before.sum(-1)


def _chosen(values: Tensor, choice: Tensor) -> Tensor:
    """Return the values [.., K, C] of choices [.., S, K]."""
    tasks, choices = values.shape[-2:]
    place = choice + torch.arange(tasks, device=choice.device) * choices
    return values.flatten(-2).gather(-1, place.flatten(-2)).reshape(choice.shape)


def _of_server(values: Tensor, server: Tensor) -> Tensor:
    """Return the values [.., N] of servers [.., S, K]."""
    return values.gather(-1, server.flatten(-2)).reshape(server.shape)

"""Knowledge of a decider that sees the servers late: the tasks that it has sent since.

If one decider serves all devices, the backlog of a server now is the observed one and the work that was sent since,
served first come, first served, less the time that has passed. `memory_policy` gives this to any policy, whose
observation then has an age of 0. Some things stay unknown: errors of predicted times, shared links, and tasks that were
refused or come from elsewhere.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.physics.queueing import busy_until_s, elapse, finish_s
from coinfer.policies.candidates import candidates_of
from coinfer.types import OffloadDecision, OffloadObservation, Policy


class SentTasks(NamedTuple):
    """The decisions of a slot, in times from its beginning; all [.., K]."""

    server: Tensor
    """Below N, also if nothing was sent."""
    sends: Tensor
    ready_s: Tensor
    service_s: Tensor


def memory_policy(policy: Policy[Tensor], slot_s: float) -> Policy[Tensor]:
    """Return the policy with observations in which the servers' backlogs are brought up to date by its own past
    decisions.

    Call it once per slot. It forgets the past if the shape of the observation changes.

    Args:
        policy: from an observation to a decision.
        slot_s: time from one call to the next.
    """
    past: list[SentTasks] = []

    def decide(observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
        if past and past[-1].server.shape != observation.deadline_s.shape:
            past.clear()
        updated = _with_current_backlogs(observation, past, slot_s)
        decision = policy(updated)
        past.append(_sent_tasks(updated, decision))
        del past[: -_slots(observation.observation_age_s, slot_s) or len(past)]
        return decision

    return decide


def _with_current_backlogs(
    observation: OffloadObservation[Tensor], past: list[SentTasks], slot_s: float
) -> OffloadObservation[Tensor]:
    """Return the observation with the backlogs of now; `past` is what was sent in the last slots, latest last."""
    age_s, backlog_s = observation.observation_age_s, observation.server_backlog_s
    for ago in range(min(len(past), _slots(age_s, slot_s)), 0, -1):
        sent = past[-ago]
        done_s = finish_s(sent.server, sent.ready_s, sent.service_s, sent.sends, backlog_s.gather(-1, sent.server))
        later_s = elapse(busy_until_s(backlog_s, sent.server, done_s, sent.sends), slot_s)
        backlog_s = torch.where(age_s > (ago - 0.5) * slot_s, later_s, backlog_s)
    return observation._replace(server_backlog_s=backlog_s, observation_age_s=torch.zeros_like(age_s))


def _sent_tasks(observation: OffloadObservation[Tensor], decision: OffloadDecision[Tensor]) -> SentTasks:
    candidates = candidates_of(observation)
    choice = candidates.choice(decision)[..., None]
    ready_s, service_s = (part.gather(-1, choice)[..., 0] for part in (candidates.ready_s, candidates.service_s))
    sends = (decision.server >= 0) & observation.task_mask & ready_s.isfinite()
    return SentTasks(decision.server.clamp(min=0), sends, torch.where(sends, ready_s, 0.0), service_s)


def _slots(age_s: Tensor, slot_s: float) -> int:
    return round(float(age_s.max()) / slot_s)

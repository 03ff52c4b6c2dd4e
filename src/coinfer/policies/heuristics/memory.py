"""What a decider that sees the servers late can know all the same: what it has sent them since.

Where one decides for all devices, the backlog of a server now is the one that was seen, and the work that was sent
there since, served first come, first served, less the time that has passed. Any policy may be told so; what it sees
then has an age of 0. What nobody can know from here stays out: errors of predicted times, links that are shared, and
tasks that were refused or come from elsewhere.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from coinfer.physics.queueing import busy_until_s, elapse, finish_s
from coinfer.policies.candidates import candidates_of
from coinfer.types import OffloadDecision, OffloadObservation, Policy


class Sent(NamedTuple):
    """The decisions of a slot, in times from its beginning; all [.., K]."""

    server: Tensor
    """Within the servers also where nothing was sent."""
    sends: Tensor
    ready_s: Tensor
    service_s: Tensor


def remembering(policy: Policy, slot_s: float) -> Policy:
    """The policy, told what waits on the servers now as far as its own past decisions tell; for one call each slot.

    Args:
        slot_s: time from one call to the next.
    """
    past: list[Sent] = []

    def decide(observation: OffloadObservation) -> OffloadDecision:
        if past and past[-1].server.shape != observation.deadline_s.shape:
            past.clear()
        told = _brought_up(observation, past, slot_s)
        decision = policy(told)
        past.append(_sent(told, decision))
        del past[: -_slots(observation.observation_age_s, slot_s) or len(past)]
        return decision

    return decide


def _brought_up(observation: OffloadObservation, past: list[Sent], slot_s: float) -> OffloadObservation:
    """With the backlogs of now; `past` is what was sent in the last slots, latest last."""
    age_s, backlog_s = observation.observation_age_s, observation.server_backlog_s
    for ago in range(min(len(past), _slots(age_s, slot_s)), 0, -1):
        sent = past[-ago]
        done_s = finish_s(sent.server, sent.ready_s, sent.service_s, sent.sends, backlog_s.gather(-1, sent.server))
        later_s = elapse(busy_until_s(backlog_s, sent.server, done_s, sent.sends), slot_s)
        backlog_s = torch.where(age_s > (ago - 0.5) * slot_s, later_s, backlog_s)
    return observation._replace(server_backlog_s=backlog_s, observation_age_s=torch.zeros_like(age_s))


def _sent(observation: OffloadObservation, decision: OffloadDecision) -> Sent:
    found = candidates_of(observation)
    choice = (decision.option * found.servers + decision.server.clamp(min=0))[..., None]
    ready_s, service_s = (part.gather(-1, choice)[..., 0] for part in (found.ready_s, found.service_s))
    sends = (decision.server >= 0) & observation.task_mask & ready_s.isfinite()
    return Sent(decision.server.clamp(min=0), sends, torch.where(sends, ready_s, 0.0), service_s)


def _slots(age_s: Tensor, slot_s: float) -> int:
    return round(float(age_s.max()) / slot_s)

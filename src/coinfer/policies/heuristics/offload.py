"""Baselines of practice and of the papers, for worlds that decide `offload`.

Every name is a function from a seed to a policy, because some policies draw random numbers and some keep a state. A
policy takes an observation [.., K, ..] of tensors and decides for all worlds at once. Predictions are those of
`candidates.predicted_s` for the queues as observed.
"""

from collections.abc import Callable
from itertools import count

import torch
from torch import Tensor

from coinfer.physics import latency
from coinfer.physics.rewards import early_exit_reward
from coinfer.policies.candidates import Candidates, candidates_of, predicted_s
from coinfer.policies.sampling import pick, uniform
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation, Policy

LATENCY_WEIGHT, LATE_PENALTY = 0.1, 0.5
"""Parameters of GRLE's reward in the policies that look at accuracy; the paper's own values are not public."""


def device_only(seed: int = 0) -> Policy[Tensor]:
    """Return a policy that leaves every task on its device, with the option that is done first.

    Args:
        seed: ignored; the policy is deterministic.
    """

    def decide(observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
        candidates = candidates_of(observation)
        return _least_predicted(observation, candidates.restrict(candidates.on_device))

    return decide


def server_only(seed: int = 0) -> Policy[Tensor]:
    """Return a policy in which devices do as little as they can, on the server of least predicted latency.

    A device sends the input if that is an option.

    Args:
        seed: ignored; the policy is deterministic.
    """

    def decide(observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
        candidates = candidates_of(observation)
        candidates = candidates.restrict(~candidates.on_device)
        on_device_s = torch.where(candidates.mask, candidates.own_s, torch.inf)
        return _least_predicted(observation, candidates.restrict(on_device_s == on_device_s.amin(-1, keepdim=True)))

    return decide


def greedy(seed: int = 0) -> Policy[Tensor]:
    """Return the papers' Greedy: the cut to each server is fixed beforehand, the server has the least predicted
    latency.

    The cut is the best one if the server is idle (CDLP). All tasks of a slot see the same queues, so they crowd on one
    server.

    Args:
        seed: ignored; the policy is deterministic.
    """

    def decide(observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
        candidates = candidates_of(observation)
        return _least_predicted(observation, candidates.restrict(_best_when_idle(observation, candidates)))

    return decide


def best_cut(seed: int = 0) -> Policy[Tensor]:
    """Return CDLP with predicted queues: each task takes the option and server of least predicted latency.

    It ignores the slot's other tasks, so they crowd on one server too.

    Args:
        seed: ignored; the policy is deterministic.
    """
    return lambda observation: _least_predicted(observation, candidates_of(observation))


def accurate_cut(seed: int = 0) -> Policy[Tensor]:
    """Return `best_cut` with GRLE's reward instead of latency: accuracy first, less some of it for the latency.

    Args:
        seed: ignored; the policy is deterministic.
    """

    def decide(observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
        candidates = candidates_of(observation)
        return candidates.decision(_regret(candidates, observation.deadline_s, observation.server_backlog_s).argmin(-1))

    return decide


def sequential_greedy(seed: int = 0) -> Policy[Tensor]:
    """Return a policy of least predicted latency, task after task.

    Each task adds its work to the queues that the next one sees and takes its place on the server. It needs one decider
    for all devices.

    Args:
        seed: ignored; the policy is deterministic.
    """
    return lambda observation: _sequential(observation, lambda task, _, free_s: predicted_s(task, free_s))


def sequential_accurate(seed: int = 0) -> Policy[Tensor]:
    """Return `sequential_greedy` with the criterion of `accurate_cut`.

    Args:
        seed: ignored; the policy is deterministic.
    """
    return lambda observation: _sequential(observation, _regret)


def round_robin(seed: int = 0) -> Policy[Tensor]:
    """Return a policy in which tasks take the servers in turn, with the cut that is best if that server is idle.

    It is APDI of the multi-task A3C paper, spread over tasks; each slot continues after the last server of the slot
    before.

    Args:
        seed: ignored; the policy is deterministic.
    """
    rotation: dict[str, Tensor] = {}

    def decide(observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
        task_mask, servers = observation.task_mask.long(), observation.uplink_bps.shape[-1]
        start = rotation.get("next")
        if start is None or start.shape != task_mask.shape[:-1]:
            start = task_mask.new_zeros(task_mask.shape[:-1])
        rotation["next"] = (start + task_mask.sum(-1)) % servers
        return _server_decision(observation, (start[..., None] + task_mask.cumsum(-1) - task_mask) % servers)

    return decide


def random(seed: int = 0) -> Policy[Tensor]:
    """Return a policy that takes any allowed pair of option and server, each equally likely.

    Args:
        seed: of the random numbers.
    """
    calls = count()

    def decide(observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
        candidates = candidates_of(observation)
        return candidates.decision(
            pick(candidates.mask, uniform(seed, next(calls), candidates.mask.shape[:-1], candidates.mask.device))
        )

    return decide


def random_place(seed: int = 0) -> Policy[Tensor]:
    """Return a policy that takes the device or a server, each equally likely, with the cut that is best there.

    It is RPDI of the multi-task A3C paper.

    Args:
        seed: of the random numbers.
    """
    calls = count()

    def decide(observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
        places = observation.uplink_bps.shape[-1] + 1
        drawn = uniform(seed, next(calls), observation.task_mask.shape, observation.task_mask.device)
        return _server_decision(observation, (drawn * places).long() + DEVICE)

    return decide


def two_choices(seed: int = 0) -> Policy[Tensor]:
    """Return the power of two choices (Mitzenmacher, IEEE TPDS 2001).

    Two servers are drawn for each task; it takes the better one by prediction, or its device if that is faster still.

    Args:
        seed: of the random numbers.
    """
    calls = count()

    def decide(observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
        candidates = candidates_of(observation)
        shape = (*candidates.mask.shape[:-1], candidates.servers)
        drawn = uniform(seed, next(calls), shape, candidates.mask.device).argsort(-1).argsort(-1) < 2
        return _least_predicted(
            observation, candidates.restrict(candidates.on_device | candidates.expand_servers(drawn))
        )

    return decide


OFFLOAD: dict[str, Callable[[int], Policy[Tensor]]] = {
    "random": random,
    "random-place": random_place,
    "round-robin": round_robin,
    "device-only": device_only,
    "server-only": server_only,
    "greedy": greedy,
    "best-cut": best_cut,
    "accurate-cut": accurate_cut,
    "two-choices": two_choices,
    "sequential-greedy": sequential_greedy,
    "sequential-accurate": sequential_accurate,
}
"""Names on the command line."""


def _least_predicted(observation: OffloadObservation[Tensor], candidates: Candidates) -> OffloadDecision[Tensor]:
    return candidates.decision(predicted_s(candidates, observation.server_backlog_s).argmin(-1))


def _best_when_idle(observation: OffloadObservation[Tensor], candidates: Candidates) -> Tensor:
    """Return true for the best option to each server if it is idle, and for the best option on the device."""
    idle_s = predicted_s(candidates, torch.zeros_like(observation.server_backlog_s))
    by_server = torch.where(candidates.on_device, torch.inf, idle_s).unflatten(-1, (-1, candidates.servers))
    remote = (by_server == by_server.amin(-2, keepdim=True)).flatten(-2) & ~candidates.on_device
    on_device_s = torch.where(candidates.on_device, idle_s, torch.inf)
    return remote | (candidates.on_device & (on_device_s == on_device_s.amin(-1, keepdim=True)))


def _server_decision(observation: OffloadObservation[Tensor], server: Tensor) -> OffloadDecision[Tensor]:
    """Return the best option for given servers [.., K] if they are idle; `DEVICE` stands for the device.

    A task that cannot use its server takes its best choice anywhere.
    """
    candidates = candidates_of(observation)
    candidates = candidates.restrict(candidates.server_mask(server))
    return candidates.decision(predicted_s(candidates, torch.zeros_like(observation.server_backlog_s)).argmin(-1))


def _regret(candidates: Candidates, deadline_s: Tensor, server_free_s: Tensor) -> Tensor:
    """Return minus GRLE's reward of every choice [.., K, C]; infinite for a choice that is not allowed.

    The penalty of a late choice grows with its latency, so that late tasks have a best choice too. Without a deadline
    it is the latency.
    """
    latency_s, deadline_s = predicted_s(candidates, server_free_s), deadline_s[..., None]
    finite_s = torch.where(candidates.mask, latency_s, 0.0)
    in_time = finite_s <= deadline_s
    reward = early_exit_reward(
        candidates.accuracy, finite_s, deadline_s, in_time, latency_weight=LATENCY_WEIGHT, late_penalty=LATE_PENALTY
    )
    regret = torch.where(in_time, -reward, -reward + finite_s)
    return torch.where(candidates.mask, torch.where(deadline_s.isfinite(), regret, latency_s), torch.inf)


def _sequential(
    observation: OffloadObservation[Tensor], cost: Callable[[Candidates, Tensor, Tensor], Tensor]
) -> OffloadDecision[Tensor]:
    """Decide task after task for the choice of least cost, given a task's choices, its deadline and the running queues.
    Decide task after task for the choice of least cost, given a task's choices, its deadline and the running queues."""
    candidates = candidates_of(observation)
    free_s, room = observation.server_backlog_s, observation.server_room
    chosen = []
    for k in range(candidates.mask.shape[-2]):
        task = candidates.task(k)
        task = task.restrict(task.on_device | task.expand_servers(room > 0)[..., None, :])
        choice = cost(task, observation.deadline_s[..., k : k + 1], free_s).argmin(-1)
        server = task.decision(choice).server
        joins = torch.nn.functional.one_hot(server + 1, candidates.servers + 1)[..., 0, 1:] > 0
        joins = joins & observation.task_mask[..., k : k + 1]
        room = room - joins.to(room.dtype)
        ready_s, service_s = (part.gather(-1, choice[..., None])[..., 0] for part in (task.ready_s, task.service_s))
        free_s = torch.where(joins, latency.end_s(ready_s, free_s, service_s), free_s)
        chosen.append(choice)
    return candidates.decision(torch.cat(chosen, -1))

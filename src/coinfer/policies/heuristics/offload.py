"""Baselines that a user would really pick, and those of the papers, for worlds that decide `offload`.

Every name is a function from a seed to a policy, because some draw and some remember whose turn it is. A policy takes
an observation [.., K, ..] of tensors and decides for all worlds at once. "Predicted" is what
`candidates.predicted_s` says of the queues as they were seen.
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
"""Of GRLE's reward in the policies that look at accuracy; the paper's own values are not public."""


def device_only(seed: int = 0) -> Policy:
    """Everything stays on its device, at the option that is done first there."""

    def decide(observation: OffloadObservation) -> OffloadDecision:
        found = candidates_of(observation)
        return _least_predicted(observation, found.limited_to(found.on_device))

    return decide


def server_only(seed: int = 0) -> Policy:
    """The device does as little as it can (it sends the input where that is an option); least predicted server."""

    def decide(observation: OffloadObservation) -> OffloadDecision:
        found = candidates_of(observation)
        found = found.limited_to(~found.on_device)
        on_device_s = torch.where(found.mask, found.own_s, torch.inf)
        return _least_predicted(observation, found.limited_to(on_device_s == on_device_s.amin(-1, keepdim=True)))

    return decide


def greedy(seed: int = 0) -> Policy:
    """The papers' Greedy: the cut to each server is the best one were it idle (CDLP's, fixed beforehand), the server is
    that of least predicted latency. All tasks of a slot see the same queues, so they herd."""

    def decide(observation: OffloadObservation) -> OffloadDecision:
        found = candidates_of(observation)
        return _least_predicted(observation, found.limited_to(_best_when_idle(observation, found)))

    return decide


def best_cut(seed: int = 0) -> Policy:
    """CDLP with predicted queues: each device takes the option and server of least predicted latency and knows nothing
    of the slot's other tasks. They herd too."""
    return lambda observation: _least_predicted(observation, candidates_of(observation))


def accurate_cut(seed: int = 0) -> Policy:
    """The same, but what is predicted in time is judged by GRLE's reward: accuracy first, some of it given for less
    latency."""

    def decide(observation: OffloadObservation) -> OffloadDecision:
        found = candidates_of(observation)
        return found.decision(_regret(found, observation.deadline_s, observation.server_backlog_s).argmin(-1))

    return decide


def sequential_greedy(seed: int = 0) -> Policy:
    """Least predicted latency, task after task; each adds its work and takes its place in the queue that the next one
    sees. It needs somebody who decides for all devices."""
    return lambda observation: _sequential(observation, lambda task, _, free_s: predicted_s(task, free_s))


def sequential_accurate(seed: int = 0) -> Policy:
    """The same, judged as by `accurate_cut`."""
    return lambda observation: _sequential(observation, _regret)


def round_robin(seed: int = 0) -> Policy:
    """Tasks take the servers in turn (APDI of the multi-task A3C paper, spread over tasks), with the cut that is best
    for that server were it idle. The turn goes on from slot to slot."""
    turn: dict[str, Tensor] = {}

    def decide(observation: OffloadObservation) -> OffloadDecision:
        there, servers = observation.task_mask.long(), observation.uplink_bps.shape[-1]
        start = turn.get("next")
        if start is None or start.shape != there.shape[:-1]:
            start = there.new_zeros(there.shape[:-1])
        turn["next"] = (start + there.sum(-1)) % servers
        return _on(observation, (start[..., None] + there.cumsum(-1) - there) % servers)

    return decide


def random(seed: int = 0) -> Policy:
    """Any allowed option on any server, each pair as likely."""
    calls = count()

    def decide(observation: OffloadObservation) -> OffloadDecision:
        found = candidates_of(observation)
        return found.decision(pick(found.mask, uniform(seed, next(calls), found.mask.shape[:-1], found.mask.device)))

    return decide


def random_place(seed: int = 0) -> Policy:
    """The device or a server, each as likely (RPDI of the multi-task A3C paper), with the cut that is best there."""
    calls = count()

    def decide(observation: OffloadObservation) -> OffloadDecision:
        places = observation.uplink_bps.shape[-1] + 1
        drawn = uniform(seed, next(calls), observation.task_mask.shape, observation.task_mask.device)
        return _on(observation, (drawn * places).long() + DEVICE)

    return decide


def two_choices(seed: int = 0) -> Policy:
    """Power of two choices (Mitzenmacher, IEEE TPDS 2001): the better predicted of two servers drawn for each task, or
    its device where that is faster still."""
    calls = count()

    def decide(observation: OffloadObservation) -> OffloadDecision:
        found = candidates_of(observation)
        shape = (*found.mask.shape[:-1], found.servers)
        offered = uniform(seed, next(calls), shape, found.mask.device).argsort(-1).argsort(-1) < 2
        return _least_predicted(observation, found.limited_to(found.on_device | found.of_servers(offered)))

    return decide


OFFLOAD: dict[str, Callable[[int], Policy]] = {
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
"""What the command line calls them."""


def _least_predicted(observation: OffloadObservation, found: Candidates) -> OffloadDecision:
    return found.decision(predicted_s(found, observation.server_backlog_s).argmin(-1))


def _best_when_idle(observation: OffloadObservation, found: Candidates) -> Tensor:
    """True for the best option to each server, were it idle, and for the best on the device."""
    idle_s = predicted_s(found, torch.zeros_like(observation.server_backlog_s))
    by_server = torch.where(found.on_device, torch.inf, idle_s).unflatten(-1, (-1, found.servers))
    there = (by_server == by_server.amin(-2, keepdim=True)).flatten(-2) & ~found.on_device
    on_device_s = torch.where(found.on_device, idle_s, torch.inf)
    return there | (found.on_device & (on_device_s == on_device_s.amin(-1, keepdim=True)))


def _on(observation: OffloadObservation, server: Tensor) -> OffloadDecision:
    """The best option for servers [.., K] that are given, `DEVICE` among them, were they idle; where a task cannot go
    there, what is best for it anywhere."""
    found = candidates_of(observation)
    found = found.limited_to(found.on_server(server))
    return found.decision(predicted_s(found, torch.zeros_like(observation.server_backlog_s)).argmin(-1))


def _regret(found: Candidates, deadline_s: Tensor, server_free_s: Tensor) -> Tensor:
    """Minus GRLE's reward of every choice [.., K, C], its penalty growing with the latency so that even late tasks have
    a best choice; the latency itself where there is no deadline; infinite where the choice may not be taken."""
    latency_s, deadline_s = predicted_s(found, server_free_s), deadline_s[..., None]
    finite_s = torch.where(found.mask, latency_s, 0.0)
    in_time = finite_s <= deadline_s
    reward = early_exit_reward(
        found.accuracy, finite_s, deadline_s, in_time, latency_weight=LATENCY_WEIGHT, late_penalty=LATE_PENALTY
    )
    regret = torch.where(in_time, -reward, -reward + finite_s)
    return torch.where(found.mask, torch.where(deadline_s.isfinite(), regret, latency_s), torch.inf)


def _sequential(
    observation: OffloadObservation, cost: Callable[[Candidates, Tensor, Tensor], Tensor]
) -> OffloadDecision:
    """Task after task the choice of least cost, which sees a task's choices, its deadline and the running queues."""
    found = candidates_of(observation)
    free_s, room = observation.server_backlog_s, observation.server_room
    chosen = []
    for k in range(found.mask.shape[-2]):
        task = found.task(k)
        task = task.limited_to(task.on_device | task.of_servers(room > 0)[..., None, :])
        choice = cost(task, observation.deadline_s[..., k : k + 1], free_s).argmin(-1)
        server = task.decision(choice).server
        joins = torch.nn.functional.one_hot(server + 1, found.servers + 1)[..., 0, 1:] > 0
        joins = joins & observation.task_mask[..., k : k + 1]
        room = room - joins.to(room.dtype)
        ready_s, service_s = (part.gather(-1, choice[..., None])[..., 0] for part in (task.ready_s, task.service_s))
        free_s = torch.where(joins, latency.end_s(ready_s, free_s, service_s), free_s)
        chosen.append(choice)
    return found.decision(torch.cat(chosen, -1))

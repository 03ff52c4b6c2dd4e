"""What a site of servers that load should come to: its servers by their own rules, its dispatchers as they are.

The servers are `policies.heuristics.server_times`; each dispatches what reaches it, knows itself as it is and the
others as they last reported, and adds what it has sent since. Batches, links and errors of predicted times are left
out.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from coinfer.physics.batching import ALONE
from coinfer.physics.loading import Loaded, credit
from coinfer.policies.heuristics.server_times import Asked, ServerState, advance, total_s
from coinfer.site.agent.dispatch import Candidate, SentTask, Task, observe, sequential_greedy
from coinfer.site.agent.serving_plan import ServingPlanner
from coinfer.site.agent.serving_state import Told
from coinfer.site.serving_messages import NetworkProfile, PieceName, ServingLoad, ServingProfile

REPORT_S = 0.08
"""Between two reports of a server, with the way to the others."""


class Request(Protocol):
    """A request of a round."""

    at_s: float
    network: int
    entry: int


class World:
    """Servers that hold some of many networks of one size.

    Args:
        services_s: of each server for one request.
        load_s: of any network.
        networks: number of them.
        size_bytes: of each.
        memory_bytes: of each server.
    """

    def __init__(self, services_s: Sequence[float], load_s: float, networks: int, size_bytes: int, memory_bytes: int):
        self._services_s, self._load_s, self._networks = services_s, load_s, networks
        self._size_bytes, self._memory_bytes = size_bytes, memory_bytes
        self._profile = ServingProfile(
            memory_bytes=memory_bytes,
            networks=tuple(NetworkProfile(name=str(x), load_s=load_s, size_bytes=size_bytes) for x in range(networks)),
            pieces=tuple(PieceName(work=str(x), network=x) for x in range(networks)),
        )

    def mean_s(self, requests: Sequence[Request], after_s: float, *, by_demand: bool) -> float:
        """Return the mean latency of the requests after a moment.

        Args:
            requests: in the order of time.
            after_s: those before are played, and not counted.
            by_demand: dispatch by `demand-greedy`; else by sequential greedy.
        """
        servers = [self._empty() for _ in self._services_s]
        told, told_s, now_s = list(servers), 0.0, 0.0
        planners = [ServingPlanner() for _ in servers]
        sent: list[list[tuple[float, int, int]]] = [[] for _ in servers]
        spent_s, before_s, count = 0.0, 0.0, 0
        for one in requests:
            while told_s + REPORT_S <= one.at_s:  # all report at once
                told_s += REPORT_S
                servers, ended_s = _later(servers, now_s, told_s)
                spent_s, now_s, told = spent_s + ended_s, told_s, list(servers)
                sent = [[] for _ in servers]
            servers, ended_s = _later(servers, now_s, one.at_s)
            spent_s, now_s = spent_s + ended_s, one.at_s
            order = [one.entry, *(n for n in range(len(servers)) if n != one.entry)]
            own = sent[one.entry]
            known = [
                self._candidate(n, servers[n] if n == one.entry else told[n], 0.0 if n == one.entry else now_s - told_s,
                                [] if n == one.entry else [(at_s - now_s, x) for at_s, m, x in own if m == n])
                for n in order
            ]  # fmt: skip
            task = Task(str(one.network), "", str(one.network), 1000, math.inf)
            if by_demand:
                planned = planners[one.entry].plan([task], known, now_s)
                planners[one.entry].adopt(planned)
                decision = planned.decision
            else:
                decision = sequential_greedy(observe([task], known))
            n = order[int(decision.server[0])]
            own.append((now_s, n, one.network))
            asked = Asked(1e-6, self._services_s[n], one.network, one.network, math.inf)
            servers[n] = replace(servers[n], asked=(*servers[n].asked, asked))
            spent_s -= now_s
            if one.at_s < after_s:
                before_s = spent_s + _rest_s(servers, now_s)
            else:
                count += 1
        return (spent_s + _rest_s(servers, now_s) - before_s) / count

    def _empty(self) -> ServerState:
        """Return a server at its start: it has loaded all networks in turn, so that the last ones are there."""
        fit, rows = self._memory_bytes // self._size_bytes, range(self._networks)
        worth = credit(0.0, self._load_s, self._size_bytes)
        warm = {x: Loaded(self._size_bytes, self._load_s, worth) for x in rows[-fit:]}
        sizes, loads = [float(self._size_bytes)] * self._networks, [self._load_s] * self._networks
        return ServerState([ALONE] * self._networks, loads, sizes, float(self._memory_bytes), warm=warm)

    def _candidate(self, n: int, state: ServerState, age_s: float, sent: Sequence[tuple[float, int]]) -> Candidate:
        service_s = self._services_s[n]
        queued = [one for one in state.asked if one.joined_s < math.inf]
        cold = [one for one in state.asked if one.joined_s == math.inf]
        load = ServingLoad(
            free_s=max(state.free_s, 0.0),
            running=state.running,
            waiting=tuple(one.piece for one in (*queued, *cold)),
            cold=len(cold),
            warm=tuple(state.warm),
            credits=tuple(one.credit - state.floor for one in state.warm.values()),
            loading=state.loading[0] if state.loading else None,
            loaded_s=max(state.loading[1], 0.0) if state.loading else 0.0,
            wanted=state.wanted,
        )
        services = {str(x): service_s for x in range(self._networks)}
        works = {str(x): service_s + self._load_s * (x not in state.warm) for x in range(self._networks)}
        backlog_s = max(max(state.free_s, 0.0) + service_s * len(queued) - age_s, 0.0) + service_s * len(sent)
        tasks = tuple(SentTask(str(x), str(x), service_s, at_s, math.inf) for at_s, x in sent)
        models = {str(x): ("f",) for x in range(self._networks)}
        told = Told(self._profile, load)
        return Candidate(str(n), models, works, backlog_s, 64.0, age_s, services=services, told=told, sent=tasks)


def _later(servers: Sequence[ServerState], now_s: float, at_s: float) -> tuple[list[ServerState], float]:
    """Return servers at a later moment, and the sum of the ends of all batches that began meanwhile."""
    by_s, found, ends_s = at_s - now_s, [advance(server, [], at_s - now_s) for server in servers], 0.0
    for before, after in zip(servers, found, strict=True):
        began = len(before.asked) - len(after.asked)
        ends_s += began * now_s + total_s(before) - total_s(after) - len(after.asked) * by_s
    return found, ends_s


def _rest_s(servers: Sequence[ServerState], now_s: float) -> float:
    """Return the sum of the ends of all that has not begun yet, if no more comes."""
    return sum(total_s(server) + len(server.asked) * now_s for server in servers)

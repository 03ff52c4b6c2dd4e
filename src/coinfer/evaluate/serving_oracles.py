"""Deciders for servers that batch and load: rules that know the servers as observed, and searches that know the truth.

The rules know what an observation tells, and the requests and networks on the servers as old as it is
(`envs.serving.known_queues`). The searches know the true state, and with a horizon all tasks of the next slots.
"""

from collections import deque
from functools import cache

import torch
from torch import Tensor

from coinfer.envs import core, exogenous, offload, serving
from coinfer.envs.core import State
from coinfer.evaluate.oracles import Decider, Oracle, idle_observation, true_observation
from coinfer.physics.batching import BatchTimes
from coinfer.physics.loading import Loaded
from coinfer.physics.serving import Queues
from coinfer.policies.candidates import candidates_of
from coinfer.policies.heuristics.serving import Asked, Choice, ServerState, Task, later, plan
from coinfer.types import OffloadDecision, OffloadObservation

ROUNDS = 8
"""Of a search, at most."""


def serving_greedy(tables: offload.Tables) -> Decider:
    """Return the rule that knows batches and loads: task after task goes where it adds least to the latency of all.

    Args:
        tables: from `offload.load`.
    """
    return _decider(tables, rounds=1)


def amortised_greedy(load_weight: float) -> Oracle:
    """Return the same rule, but the task that has a network loaded counts only a part of that.

    Args:
        load_weight: the part, 0 to 1.
    """
    return lambda tables: _decider(tables, rounds=1, load_weight=load_weight)


def serving_descent(tables: offload.Tables) -> Decider:
    """Return the same rule with a search: the tasks of the slot are looked at until none improves alone.

    Args:
        tables: from `offload.load`.
    """
    return _decider(tables, rounds=ROUNDS)


def serving_forecast(slots: int) -> Oracle:
    """Return a search that takes the tasks of the last slots for those of the next, and decides for all of them.

    Args:
        slots: number of slots that it looks back and ahead.
    """
    return lambda tables: _decider(tables, rounds=ROUNDS, past=slots)


def serving_horizon(slots: int) -> Oracle:
    """Return a search that knows the truth and the tasks of the next slots, and decides for all of them together.

    Args:
        slots: number of slots after the present one.
    """
    return lambda tables: _decider(tables, rounds=ROUNDS, horizon=slots)


def _decider(
    tables: offload.Tables, *, rounds: int, past: int = 0, horizon: int = 0, load_weight: float = 1.0
) -> Decider:
    known, slot_s = _Known(tables), tables.edge.edge.slot_s
    history: deque[list[Numbered]] = deque(maxlen=past)

    def decide(state: State, observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
        assert state.queues is not None
        servers = known.servers(state.queues if horizon else serving.known_queues(state))
        tasks = [known.tasks(state, true_observation(tables, state) if horizon else observation, own=True)]
        tasks += [known.future(state, ahead) for ahead in range(1, horizon + 1)]
        tasks += history
        history.append(tasks[0])
        option = torch.zeros_like(state.draws.device)
        server = torch.full_like(option, -1)
        for world, states in enumerate(servers):
            together = [later(task, n * slot_s) for n, slot in enumerate(tasks) for _, task in slot[world]]
            choices = plan(states, together, rounds, load_weight)
            for (k, _), choice in zip(tasks[0][world], choices, strict=False):
                option[world, k], server[world, k] = choice.option, choice.server
        return OffloadDecision(option, server)

    return decide


def known_worlds(tables: offload.Tables, queues: Queues) -> list[list[ServerState]]:
    """Return the servers of every world in the plain form of the rules, [B][N].

    Args:
        tables: from `offload.load`.
        queues: as far as they are known.
    """
    return _Known(tables).servers(queues)


Numbered = list[tuple[int, Task]]
"""The tasks of a slot of one world with their numbers."""


class _Known:
    """Reads worlds into the plain values of `policies.heuristics.serving`."""

    def __init__(self, tables: offload.Tables):
        assert tables.serving is not None
        self.tables, self.serving = tables, tables.serving
        models, servers = self.serving.load_s.shape[1], tables.edge.edge.servers
        ratios = self.serving.batch_ratio.reshape(models, servers, -1)
        self.times = [[_times(tuple(ratios[x, n].tolist())) for x in range(models)] for n in range(servers)]
        self.load_s, self.size_bytes = self.serving.load_s.tolist(), self.serving.network_bytes.tolist()
        self.memory_bytes = self.serving.memory_bytes.tolist()
        self.network = self.serving.piece_network.tolist()
        self.download_s = tables.edge.download_s.tolist()

    def servers(self, queues: Queues) -> list[list[ServerState]]:
        """Return the servers of every world, [B][N]."""
        requests = [field.tolist() for field in queues.requests[:6]]
        memory = [field.tolist() for field in queues.memory]
        worlds, servers = queues.free_s.shape
        free_s = queues.free_s.tolist()
        return [
            [self._server(n, free_s[b][n], [f[b][n] for f in requests], [f[b][n] for f in memory])
             for n in range(servers)]
            for b in range(worlds)
        ]  # fmt: skip

    def _server(self, n: int, free_s: float, requests: list, memory: list) -> ServerState:
        warm, wanted_s, credits, floor, loading, loaded_s = memory
        asked, running = [], []
        for ready_s, joined_s, finish_s, service_s, piece, deadline_s in zip(*requests, strict=True):
            if ready_s == float("inf"):
                continue
            network = self.network[piece]
            if finish_s == float("inf"):
                joined_s = joined_s if joined_s <= 0 else float("inf")
                asked.append(Asked(ready_s, service_s, piece, network, deadline_s, joined_s))
            elif finish_s > 0:
                running.append(network)
        held = {x: Loaded(self.size_bytes[x], self.load_s[n][x], credits[x]) for x, there in enumerate(warm) if there}
        waits = sorted((since_s, x) for x, since_s in enumerate(wanted_s) if since_s < float("inf"))
        return ServerState(
            times=self.times[n],
            load_s=self.load_s[n],
            size_bytes=self.size_bytes,
            memory_bytes=self.memory_bytes[n],
            free_s=free_s,
            running=tuple(running),
            asked=tuple(sorted(asked, key=lambda one: one.ready_s)),
            warm=held,
            floor=floor,
            loading=None if loaded_s == float("inf") else (loading, loaded_s),
            wanted=tuple(x for _, x in waits),
        )

    def future(self, state: State, ahead: int) -> list[Numbered]:
        """Return the tasks of a later slot of every world, on devices and links where nothing waits."""
        last = self.tables.edge.edge.slots - 1
        number = (state.slot + ahead).clamp(max=last)
        draws = core.draw(self.tables.edge, state.seed, number)
        draws = draws._replace(task_mask=draws.task_mask & (state.slot + ahead <= last)[:, None])
        there = state._replace(slot=number, draws=draws)
        return self.tasks(there, idle_observation(self.tables, there), own=False)

    def tasks(self, state: State, seen: OffloadObservation[Tensor], own: bool) -> list[Numbered]:
        """Return the tasks of a slot of every world, the first to arrive first."""
        draws, tables = state.draws, self.tables
        kind = draws.model * tables.edge.edge.classes + draws.device_class
        piece = exogenous.take_rows(self.serving.option_piece.reshape(tables.exists.shape), kind).tolist()
        if self.serving.loads and own:
            loading_s = serving.load_s(self.serving, serving.known_queues(state), draws.model)
            seen = seen._replace(option_server_s=seen.option_server_s - loading_s)
        candidates = candidates_of(seen)
        places, found = candidates.servers, []
        rows = (candidates.mask, candidates.on_device, candidates.ready_s, candidates.service_s)
        models, present, deadline_s = draws.model.tolist(), draws.task_mask.tolist(), seen.deadline_s.tolist()
        for b, (mask, here, ready_s, service_s) in enumerate(zip(*(row.tolist() for row in rows), strict=True)):
            tasks = Numbered()
            for k in [k for k, there in enumerate(present[b]) if there]:
                choices = tuple(
                    Choice(c // places, -1 if here[k][c] else c % places, ready_s[k][c], service_s[k][c],
                           piece[b][k][c // places], models[b][k])
                    for c in range(len(mask[k]))
                    if mask[k][c]
                )  # fmt: skip
                tasks.append((k, Task(choices, deadline_s[b][k], self.download_s)))
            found.append(sorted(tasks, key=lambda one: min(choice.ready_s for choice in one[1].choices)))
        return found


@cache
def _times(ratios: tuple[float, ...]) -> BatchTimes:
    allowed = tuple(ratio for ratio in ratios if ratio != float("inf"))
    return BatchTimes(tuple(range(1, len(allowed) + 1)), allowed)

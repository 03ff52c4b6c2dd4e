"""Worlds whose servers batch or load, read into the plain values of `policies.heuristics.serving`."""

from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from coinfer.envs import core, exogenous, offload, serving
from coinfer.envs.core import State
from coinfer.evaluate.oracles import idle_observation
from coinfer.physics.batching import BatchTimes
from coinfer.physics.loading import Loaded
from coinfer.physics.serving import Queues
from coinfer.policies.candidates import candidates_of
from coinfer.policies.heuristics.demand import FADING_S, Memory
from coinfer.policies.heuristics.homes import homes
from coinfer.policies.heuristics.server_times import Asked, ServerState
from coinfer.policies.heuristics.serving import Choice, Task
from coinfer.types import OffloadObservation

Numbered = list[tuple[int, Task]]
"""The tasks of a slot of one world with their numbers."""


class PlainWorlds:
    """Reads the servers and the tasks of a slot, world by world.

    Args:
        tables: from `offload.load`, of a world whose servers batch or load.
    """

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
        sends = tables.exists & (tables.upload_bits > 0)
        self.choices = int((sends.sum(-1) * servers + (tables.exists & ~sends).sum(-1)).max())
        """C, choices of a task at most."""

    @cached_property
    def home(self) -> list[int]:
        """Return the home of each network, [X]."""
        return home_servers(self.tables)

    @cached_property
    def crowded_home(self) -> list[int]:
        """Return the same, where all networks that a server's memory could hold have one."""
        return home_servers(self.tables, crowded=True)

    def servers(self, queues: Queues) -> list[list[ServerState]]:
        """Return the servers of every world, [B][N].

        Args:
            queues: as far as they are known.
        """
        (worlds, servers), memory = queues.free_s.shape, queues.memory
        requests = self._requests(queues)
        warm = _grouped(memory.warm, memory.credit)
        wanted = _grouped(memory.wanted_s.isfinite(), memory.wanted_s)
        rows = zip(*(part.flatten().tolist() for part in _scalars(queues)), strict=True)
        found = []
        for place, (free_s, floor, loading, loaded_s) in enumerate(rows):
            n = place % servers
            asked, running = requests.get(place, ((), ()))
            held = {x: Loaded(self.size_bytes[x], self.load_s[n][x], credit) for x, credit in warm.get(place, ())}
            waits = sorted((since_s, x) for x, since_s in wanted.get(place, ()))
            found.append(
                ServerState(
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
            )
        return [found[b * servers : (b + 1) * servers] for b in range(worlds)]

    def no_memory(self, *, forecasts: bool = False) -> Memory:
        """Return what a decider remembers at first.

        Args:
            forecasts: whether it is one that forecasts demand.
        """

        def nothing(rows: int) -> list[list[float]]:
            return [[0.0] * len(self.size_bytes) for _ in range(rows)]

        return Memory(nothing(1)[0], nothing(len(self.memory_bytes)), [], nothing(len(FADING_S) if forecasts else 0))

    def _requests(self, queues: Queues) -> dict[int, tuple[list[Asked], list[int]]]:
        """Return requests that wait and networks that run, by b * N + n, where there are any."""
        there = queues.requests.ready_s.isfinite()
        place = there.flatten(0, 1).nonzero()[:, 0].tolist()
        found: dict[int, tuple[list[Asked], list[int]]] = {}
        for at, *row in zip(place, *(field[there].tolist() for field in queues.requests[:6]), strict=True):
            ready_s, joined_s, finish_s, service_s, piece, deadline_s = row
            asked, running = found.setdefault(at, ([], []))
            network = self.network[piece]
            if finish_s == float("inf"):
                joined_s = joined_s if joined_s <= 0 else float("inf")
                asked.append(Asked(ready_s, service_s, piece, network, deadline_s, joined_s))
            elif finish_s > 0:
                running.append(network)
        return found

    def future(self, state: State, ahead: int) -> list[Numbered]:
        """Return the tasks of a later slot of every world, on devices and links where nothing waits.

        Args:
            state: at the beginning of a slot.
            ahead: number of slots from there.
        """
        last = self.tables.edge.edge.slots - 1
        number = (state.slot + ahead).clamp(max=last)
        draws = core.draw(self.tables.edge, state.seed, number)
        draws = draws._replace(task_mask=draws.task_mask & (state.slot + ahead <= last)[:, None])
        there = state._replace(slot=number, draws=draws)
        return self.tasks(there, idle_observation(self.tables, there), own=False)

    def tasks(self, state: State, seen: OffloadObservation[Tensor], *, own: bool) -> list[Numbered]:
        """Return the tasks of a slot of every world, the first to arrive first.

        Args:
            state: only its draws and queues are read.
            seen: what is known of the slot.
            own: whether `seen` adds to times on servers what loading takes there.
        """
        draws, tables = state.draws, self.tables
        if self.serving.loads and own:
            loading_s = serving.load_s(self.serving, serving.known_queues(state), draws.model)
            seen = seen._replace(option_server_s=seen.option_server_s - loading_s)
        kind = draws.model * tables.edge.edge.classes + draws.device_class
        piece = exogenous.take_rows(self.serving.option_piece.reshape(tables.exists.shape), kind)
        candidates, present = candidates_of(seen), draws.task_mask
        places, found = candidates.servers, [Numbered() for _ in range(present.shape[0])]
        rows = (candidates.mask, candidates.on_device, candidates.ready_s, candidates.service_s, piece)
        values = (draws.model, seen.deadline_s, *rows)
        for b, k, model, deadline_s, mask, here, ready_s, service_s, pieces in zip(
            *present.nonzero().T.tolist(), *(value[present].tolist() for value in values), strict=True
        ):
            choices = tuple(
                Choice(c // places, -1 if here[c] else c % places, ready_s[c], service_s[c], pieces[c // places], model)
                for c, allowed in enumerate(mask)
                if allowed
            )
            found[b].append((k, Task(choices, deadline_s, self.download_s)))
        for tasks in found:
            tasks.sort(key=lambda one: min(choice.ready_s for choice in one[1].choices))
        return found


def home_servers(tables: offload.Tables, *, crowded: bool = False) -> list[int]:
    """Return the home of each network of a world, [X] (`policies.heuristics.homes`).

    Args:
        tables: of a world whose servers batch or load.
        crowded: as in `homes`.
    """
    assert tables.serving is not None
    edge = tables.edge.edge
    mix = torch.as_tensor(edge.model_cdf[None] if edge.model_mix is None else edge.model_mix)
    share = mix.diff(prepend=torch.zeros_like(mix[:, :1])).mean(0)
    service_s = tables.server_s.amax(-2).mean(-1).reshape(edge.models, edge.classes).mean(-1).cpu()
    alone_s = torch.where(tables.exists & (tables.upload_bits == 0), tables.device_s, torch.inf).amin(-1)
    alone_s = alone_s.reshape(edge.models, edge.classes).mean(-1).cpu()
    saved_s = torch.where(alone_s.isfinite(), alone_s - service_s, service_s).clamp(min=0)
    size_bytes, memory_bytes = tables.serving.network_bytes.tolist(), tables.serving.memory_bytes.tolist()
    return homes((share * service_s).tolist(), (share * saved_s).tolist(), size_bytes, memory_bytes, crowded=crowded)


def known_worlds(tables: offload.Tables, queues: Queues) -> list[list[ServerState]]:
    """Return the servers of every world in the plain form of the rules, [B][N].

    Args:
        tables: from `offload.load`.
        queues: as far as they are known.
    """
    return PlainWorlds(tables).servers(queues)


def _grouped(mask: Tensor, values: Tensor) -> dict[int, list[tuple[int, Any]]]:
    """Return index and value of the true entries of the last axis of a mask [B, N, X], by b * N + n."""
    found: dict[int, list[tuple[int, Any]]] = {}
    at, x = mask.flatten(0, 1).nonzero().T.tolist()
    for place, number, value in zip(at, x, values[mask].tolist(), strict=True):
        found.setdefault(place, []).append((number, value))
    return found


def _scalars(queues: Queues) -> tuple[Tensor, ...]:
    return queues.free_s, queues.memory.floor, queues.memory.loading, queues.memory.loaded_s


@cache
def _times(ratios: tuple[float, ...]) -> BatchTimes:
    allowed = tuple(ratio for ratio in ratios if ratio != float("inf"))
    return BatchTimes(tuple(range(1, len(allowed) + 1)), allowed)

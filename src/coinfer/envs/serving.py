"""The tasks of a slot on servers that batch and load.

Servers serve in the order in which requests join their queues, also across slots. So a task that comes later can change
when an earlier one is done: it may run with it, or delay it. The latency that a slot finds is therefore the one if no
more tasks came, and every slot says how it changes those of earlier ones (`Revisions`). A slot's reward counts both, so
it is what the slot's own decisions cost.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from coinfer.envs.core import Revisions, State
from coinfer.envs.exogenous import EdgeTables
from coinfer.envs.rewards import Reward
from coinfer.envs.service import ServerStage
from coinfer.physics import queueing
from coinfer.physics.batching import BatchTimes, batch_plan
from coinfer.physics.serving import Queues, Requests, ServingTables
from coinfer.physics.serving_events import advance
from coinfer.scenario.serving import Serving
from coinfer.types import Outcome


class ServedSlot(NamedTuple):
    """What becomes of the tasks of a slot, in times from its beginning."""

    finish_s: Tensor
    """[B, K] when the server has done its part; means nothing for tasks that use none."""
    free_s: Tensor
    """[B, N] when each server has done all that it has."""
    queues: Queues
    """The servers at the end of the slot."""
    revisions: Revisions


def load(serving: Serving, places: int, device: torch.device, dtype: torch.dtype) -> ServingTables:
    """Return the tables of a world's servers.

    Args:
        serving: of the world.
        places: H, most requests that a server holds.
        device: where the tensors live.
        dtype: of real numbers.
    """
    models, servers, _ = serving.batch_ratio.shape
    ratios, row = np.unique(serving.batch_ratio.reshape(models * servers, -1), axis=0, return_inverse=True)
    sizes = np.stack([_sizes(ratio, places) for ratio in ratios])[row.reshape(-1)]

    def real(array: np.ndarray) -> Tensor:
        return torch.as_tensor(np.asarray(array, dtype=np.float64)).to(device, dtype)

    def whole(array: np.ndarray) -> Tensor:
        return torch.as_tensor(np.asarray(array, dtype=np.int64)).to(device)

    return ServingTables(
        option_piece=whole(serving.option_piece).reshape(-1),
        piece_network=whole(serving.piece_network),
        batch_ratio=real(serving.batch_ratio).reshape(models * servers, -1),
        batch_size=whole(sizes),
        memory_bytes=real(serving.memory_bytes),
        network_bytes=real(serving.network_bytes),
        load_s=real(serving.load_s.T),
        places=places,
        loads=serving.loads,
    )


def _sizes(ratio: np.ndarray, places: int) -> np.ndarray:
    """Return the next batch [H + 1, H + 1] by how many of the piece, and how many in all, wait."""
    allowed = tuple(ratio[np.isfinite(ratio)].tolist())
    times = BatchTimes(tuple(range(1, len(allowed) + 1)), allowed)
    table = np.ones((places + 1, places + 1), np.int64)
    for waiting in range(2, places + 1) if times.limit > 1 else ():
        for same in range(2, waiting + 1):
            table[same, waiting] = batch_plan(times, same, waiting)[0]
    return table


def serve(
    edge: EdgeTables,
    tables: ServingTables,
    state: State,
    piece: Tensor,
    server: Tensor,
    uses: Tensor,
    ready_s: Tensor,
    service_s: Tensor,
    accuracy: Tensor,
) -> ServedSlot:
    """Serve the tasks of a slot; all tensors are [B, K].

    Args:
        edge: of the scenario.
        tables: of its servers.
        state: at the beginning of the slot; unchanged.
        piece: int64, what the server computes.
        server: int64 below N, also for tasks that use no server.
        uses: bool, whether the task uses a server.
        ready_s: when the task arrives at the server.
        service_s: its service time alone.
        accuracy: of its answer.
    """
    assert state.queues is not None
    old = state.queues.requests
    number = torch.arange(server.shape[1], device=server.device).expand_as(server)
    values = {"service_s": service_s, "piece": piece, "deadline_s": state.draws.deadline_s, "accuracy": accuracy}
    values |= {"slot": state.slot[:, None].expand_as(server), "number": number}
    mine = uses[:, None, :] & (server[:, None, :] == torch.arange(edge.edge.servers, device=server.device)[:, None])
    both, order = _joined(tables, old, mine, ready_s, values)
    later = advance(tables, state.queues._replace(requests=both), edge.edge.slot_s)
    done = advance(tables, later, torch.inf)
    expected_s = torch.where(both.ready_s.isfinite(), done.requests.finish_s, 0.0)
    in_place_s = torch.empty_like(expected_s).scatter_(-1, order, expected_s)
    finish_s = in_place_s[..., tables.places :].gather(1, server[:, None, :])[:, 0]
    later = later._replace(requests=later.requests._replace(expected_s=expected_s))
    revisions = _revisions(edge, state, old, in_place_s[..., : tables.places])
    return ServedSlot(finish_s, done.free_s.clamp(min=0), later, revisions)


def server_stage(
    edge: EdgeTables, state: State, server: Tensor, uses: Tensor, service_s: Tensor, served: ServedSlot
) -> ServerStage:
    """Return the same as `service.server_stage` does for servers that neither batch nor load.

    Args:
        edge: of the scenario.
        state: at the beginning of the slot.
        server: [B, K] int64 below N, also for tasks that use no server.
        uses: [B, K] bool, whether a task uses a server.
        service_s: [B, K] its service time alone.
        served: from `serve`.
    """
    return ServerStage(
        finish_s=served.finish_s,
        server_until_s=served.free_s,
        tasks=queueing.counts(server, uses, edge.edge.servers),
        work_s=queueing.sums(server, service_s * uses, edge.edge.servers),
        unfinished_s=state.unfinished_s,
        ring_head=state.ring_head,
    )


def _joined(
    tables: ServingTables, old: Requests, mine: Tensor, ready_s: Tensor, values: dict[str, Tensor]
) -> tuple[Requests, Tensor]:
    """Return old and new requests [B, N, H + K] in the order of arrival, and that order; `mine` is [B, N, K]."""
    ready_s = torch.where(mine, ready_s[:, None, :], torch.inf)
    never = torch.full_like(ready_s, torch.inf)
    new = Requests(
        ready_s=ready_s,
        joined_s=never if tables.loads else ready_s,
        finish_s=never,
        expected_s=torch.zeros_like(ready_s),
        arrived=~mine if tables.loads else torch.ones_like(mine),
        **{name: value[:, None, :].expand_as(mine) for name, value in values.items()},
    )
    both = [torch.cat(pair, -1) for pair in zip(old, new, strict=True)]
    order = both[0].argsort(dim=-1, stable=True)
    return Requests(*(field.gather(-1, order) for field in both)), order


def _revisions(edge: EdgeTables, state: State, old: Requests, finish_s: Tensor) -> Revisions:
    waited = old.ready_s.isfinite() & old.finish_s.isinf()
    since_s = (state.slot[:, None, None] - old.slot) * edge.edge.slot_s + edge.download_s[:, None]
    fields = (
        waited,
        old.slot,
        old.number,
        torch.where(waited, old.expected_s + since_s, 0.0),
        torch.where(waited, finish_s + since_s, 0.0),
        old.deadline_s + since_s - edge.download_s[:, None],
        old.accuracy,
    )
    return Revisions(*(field.flatten(1) for field in fields))


def next_slot(tables: ServingTables, queues: Queues, slot_s: float) -> Queues:
    """Return the servers in times from the beginning of the next slot, without the requests that are finished.

    Args:
        tables: of the servers.
        queues: at the end of a slot; unchanged.
        slot_s: length of the slot.
    """
    requests, memory = queues.requests, queues.memory
    stays = requests.ready_s.isfinite() & (requests.finish_s > slot_s)
    order = (~stays).int().argsort(dim=-1, stable=True)[..., : tables.places]
    kept = Requests(*(field.gather(-1, order) for field in requests))
    there = stays.gather(-1, order)
    kept = kept._replace(
        ready_s=torch.where(there, kept.ready_s - slot_s, torch.inf),
        joined_s=torch.where(there, kept.joined_s - slot_s, torch.inf),
        finish_s=torch.where(there, kept.finish_s - slot_s, torch.inf),
        deadline_s=kept.deadline_s - slot_s,
        expected_s=torch.where(there, kept.expected_s - slot_s, 0.0),
        arrived=kept.arrived | ~there,
    )
    memory = memory._replace(wanted_s=memory.wanted_s - slot_s, loaded_s=memory.loaded_s - slot_s)
    return Queues(kept, memory, queues.free_s - slot_s)


def known_queues(state: State) -> Queues:
    """Return the servers as a decider knows them, as old as the rest of what it knows about them; their times are from
    the beginning of that slot.

    Args:
        state: of a scenario whose servers batch or load.
    """
    queues = state.past_queues[-1] if state.past_queues else state.queues
    assert queues is not None
    return queues


def load_s(tables: ServingTables, queues: Queues, model: Tensor) -> Tensor:
    """Return the time of loading each task's network on each server, [B, K, 1, N]; 0 if it is there.

    Args:
        tables: of the servers.
        queues: as far as they are known.
        model: [B, K] int64, network of each task.
    """
    cold_s = torch.where(queues.memory.warm, 0.0, tables.load_s).transpose(1, 2)
    return cold_s.gather(1, model[..., None].expand(-1, -1, cold_s.shape[2]))[:, :, None, :]


def revision_reward(revisions: Revisions, state: State, reward: Reward) -> Tensor:
    """Return by how much the rewards of earlier slots' tasks change, [B].

    Args:
        revisions: of a slot.
        state: at its beginning.
        reward: from an outcome and draws to rewards [B]; it may look at latency, accuracy and deadline only.
    """
    draws = state.draws._replace(task_mask=revisions.mask, deadline_s=revisions.deadline_s)
    now, before = (_outcome(revisions, latency_s) for latency_s in (revisions.latency_s, revisions.old_latency_s))
    return reward(now, draws) - reward(before, draws)


def _outcome(revisions: Revisions, latency_s: Tensor) -> Outcome[Tensor]:
    nothing, in_time = torch.zeros_like(latency_s), latency_s <= revisions.deadline_s
    return Outcome(
        device_s=nothing,
        upload_s=nothing,
        queue_s=nothing,
        server_s=nothing,
        download_s=nothing,
        latency_s=latency_s,
        energy_j=nothing,
        accuracy=revisions.accuracy,
        admitted=revisions.mask,
        in_time=in_time,
    )

"""The environment `offload`: each task of a slot takes an option (exit, cut, bits) and a server, or its own device.

Three pure functions over a `core.State`: `reset`, `observe`, `step`. The rule of a slot:

1. All tasks are decided and start when the slot begins. A decision is feasible (`option_feasible`) if the option
   exists, the task may spend the energy that it takes, and, if it sends something, the link works.
2. Servers give places in the order of the tasks' numbers (`queueing.admission`); a server that is out has none.
3. A task is refused if its decision is not feasible or finds no place. It then runs completely on its device, and
   nothing is sent. If the scenario drops refused tasks, or the energy does not suffice for that, the task is lost and
   counts as waiting until its deadline.
4. Processor and radio of the device and the servers serve first come, first served: slot after slot, and within a slot
   in the order of readiness.
5. `device_s` and `upload_s` of the outcome include the waiting for the device's processor and radio.

Servers that batch or load (`scenario.serving`) instead serve in the order of arrival, also across slots
(`envs.serving`); then the outcome is that if no more tasks came, and `Info.revisions` holds what a slot changes of it.

Decisions out of range are not feasible. All fields of the outcome are 0, and the flags false, for entries without a
task.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from coinfer.envs import core, exogenous, service, serving
from coinfer.envs.core import Info, State
from coinfer.envs.exogenous import EdgeTables
from coinfer.envs.rewards import Reward
from coinfer.envs.service import DeviceStage, ServerStage
from coinfer.envs.serving import ServedSlot
from coinfer.physics import compute, queueing, radio
from coinfer.physics.serving import ServingTables, idle
from coinfer.scenario.world import OffloadWorld
from coinfer.types import OffloadDecision, OffloadObservation, Outcome


class Tables(NamedTuple):
    """An `OffloadWorld` as tensors. A kind is a network on a class of device: `model * C + device_class`."""

    edge: EdgeTables
    device_s: Tensor
    """[X * C, O], as all fields without a comment; names and units as in the world."""
    upload_bits: Tensor
    server_s: Tensor
    """[X * C, O, N]"""
    accuracy: Tensor
    device_j: Tensor
    exists: Tensor
    local_option: Tensor
    """[X * C] int64"""
    serving: ServingTables | None
    """None if servers neither batch nor load."""


class Step(NamedTuple):
    state: State
    outcome: Outcome[Tensor]
    reward: Tensor
    """[B]"""
    info: Info


class SlotResult(NamedTuple):
    """The results of the decisions of a slot, in times from its beginning."""

    outcome: Outcome[Tensor]
    """[B, K]"""
    refused: Tensor
    """[B, K]"""
    dropped: Tensor
    """[B, K]"""
    devices: DeviceStage
    servers: ServerStage
    spent_j: Tensor
    """[B, U], or [B, 0] if no energy is limited."""
    served: ServedSlot | None
    """None if servers neither batch nor load."""


def load(world: OffloadWorld, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Tables:
    """Return the tables of a scenario, on a device.

    Args:
        world: a compiled scenario.
        device: where the tensors live.
        dtype: of all real numbers, float32 or float64.

    Raises:
        WorldError: if the scenario's arrays do not fit together; one line.
    """
    edge = exogenous.load_edge(world, device, dtype)
    servers = serving.load(world.serving, edge.places, edge.device, dtype) if world.serving else None
    edge = edge._replace(places=0) if servers else edge
    kinds = world.edge.models * world.edge.classes

    def real(array: np.ndarray) -> Tensor:
        return torch.as_tensor(np.asarray(array, dtype=np.float64)).to(device, dtype).reshape(kinds, *array.shape[2:])

    return Tables(
        edge=edge,
        device_s=real(world.option_device_s),
        upload_bits=real(world.option_upload_bits),
        server_s=real(world.option_server_s),
        accuracy=real(world.option_accuracy),
        device_j=real(world.option_device_j),
        exists=torch.as_tensor(np.asarray(world.option_mask, dtype=bool)).to(device).reshape(kinds, -1),
        local_option=torch.as_tensor(np.asarray(world.local_option, dtype=np.int64)).to(device).reshape(-1),
        serving=servers,
    )


def reset(tables: Tables, seeds: Tensor) -> State:
    """Return idle worlds at the first slot of their episodes.

    Args:
        tables: from `load`.
        seeds: [B] int64, one episode each.
    """
    state = core.initial_state(tables.edge, seeds)
    if tables.serving is None:
        return state
    queues = idle(tables.serving, seeds.shape[0])
    return state._replace(queues=queues, past_queues=(queues,) * tables.edge.edge.staleness_slots)


def observe(tables: Tables, state: State) -> OffloadObservation[Tensor]:
    """Return the observation of each world, [B, ..], with stale servers and believed link rates.

    Args:
        tables: from `load`.
        state: at the beginning of a slot.
    """
    draws, kind = state.draws, _kind(tables, state)
    backlog_s, room, share = core.observed_servers(tables.edge, state)
    radio_s = state.uplink_backlog_s.gather(-1, draws.device)
    server_s = exogenous.take_rows(tables.server_s, kind)
    if tables.edge.shares.varies:
        server_s.mul_(torch.where(share > 0, share, 1.0).reciprocal_()[:, None, None, :])
    if tables.serving is not None and tables.serving.loads:
        server_s = server_s + serving.load_s(tables.serving, serving.known_queues(state), draws.model)
    return OffloadObservation(
        option_device_s=exogenous.take_rows(tables.device_s, kind),
        option_upload_bits=exogenous.take_rows(tables.upload_bits, kind),
        option_server_s=server_s,
        option_accuracy=exogenous.take_rows(tables.accuracy, kind),
        option_device_j=exogenous.take_rows(tables.device_j, kind),
        option_mask=option_feasible(tables, state, draws.believed_bps) & draws.task_mask[..., None],
        task_mask=draws.task_mask,
        deadline_s=draws.deadline_s,
        uplink_bps=draws.believed_bps,
        device_backlog_s=state.device_backlog_s.gather(-1, draws.device),
        server_backlog_s=backlog_s,
        server_room=room,
        energy_left_j=core.energy_left_j(tables.edge, state),
        observation_age_s=torch.full_like(backlog_s, tables.edge.edge.staleness_slots * tables.edge.edge.slot_s),
        uplink_backlog_s=radio_s[..., None].expand(draws.believed_bps.shape),
    )


def option_feasible(tables: Tables, state: State, link_bps: Tensor) -> Tensor:
    """Return which options can be carried out over at least one link, [B, K, O] bool.

    Args:
        tables: from `load`.
        state: at the beginning of a slot.
        link_bps: [B, K, N] link rates to assume, true or believed ones.
    """
    kind = _kind(tables, state)
    best_bps = link_bps.amax(-1, keepdim=True)
    exists, bits, device_j = (
        exogenous.take_rows(t, kind) for t in (tables.exists, tables.upload_bits, tables.device_j)
    )
    return _feasible(tables, state, exists, bits, device_j, best_bps)


def step(tables: Tables, state: State, decision: OffloadDecision[Tensor], reward: Reward) -> Step:
    """Serve the tasks of a slot as decided and go to the next slot.

    Args:
        tables: from `load`.
        state: at the beginning of the slot; unchanged.
        decision: [B, K]; entries without a task do not matter.
        reward: from the outcome and draws of the slot to rewards [B].

    Returns:
        The next state, the outcome [B, K] and reward [B] of the slot, and `Info`. Reset the worlds that are `truncated`
            before the next step.
    """
    served = serve(tables, state, decision)
    changes, revisions, gained = {}, None, 0.0
    if served.served is not None and tables.serving is not None:
        revisions = served.served.revisions
        changes["queues"] = serving.next_slot(tables.serving, served.served.queues, tables.edge.edge.slot_s)
        gained = serving.revision_reward(revisions, state, reward)
    after = core.next_slot(
        tables.edge,
        state,
        **changes,
        device_backlog_s=served.devices.device_until_s,
        uplink_backlog_s=served.devices.uplink_until_s,
        server_backlog_s=served.servers.server_until_s,
        unfinished_s=served.servers.unfinished_s,
        ring_head=served.servers.ring_head,
        spent_j=served.spent_j,
    )
    info = Info(
        truncated=after.slot >= tables.edge.edge.slots,
        refused=served.refused,
        dropped=served.dropped,
        server_tasks=served.servers.tasks,
        server_work_s=served.servers.work_s,
        revisions=revisions,
    )
    return Step(after, served.outcome, reward(served.outcome, state.draws) + gained, info)


def serve(tables: Tables, state: State, decision: OffloadDecision[Tensor]) -> SlotResult:
    """Return the results of the decisions of a slot without going to the next one, for bounds that try many decisions.

    Args:
        tables: from `load`.
        state: at the beginning of the slot; unchanged.
        decision: [B, K]; entries without a task do not matter.
    """
    edge, draws = tables.edge, state.draws
    row, server, sends, feasible = _requested(tables, state, decision)
    offloads = draws.task_mask & feasible & sends
    if not edge.always_room:
        offloads = queueing.admission(server, offloads, core.room(edge, state))
    refused = draws.task_mask & ~(feasible & (offloads | ~sends))
    row = torch.where(refused, _local_row(tables, state), row)
    dropped = _dropped(tables, state, refused)
    works = draws.task_mask & ~dropped

    device_s = _entry(tables.device_s, row) * draws.device_factor
    airtime_s = _airtime_s(tables, state, row, server, offloads)
    devices = service.device_stage(edge, state, works, device_s, offloads, airtime_s)
    server_s = _server_s(tables, state, row, server, offloads)
    if tables.serving is None:
        served, servers = None, service.server_stage(edge, state, server, offloads, devices.sent_s, server_s)
    else:
        pieces, accuracy = _entry(tables.serving.option_piece, row), _entry(tables.accuracy, row)
        served = serving.serve(
            edge, tables.serving, state, pieces, server, offloads, devices.sent_s, server_s, accuracy
        )
        servers = serving.server_stage(edge, state, server, offloads, server_s, served)
        server_s = torch.minimum(server_s, servers.finish_s - devices.sent_s) * offloads

    power_w = exogenous.take(edge.transmit_power_w, draws.device_class)
    energy_j = (_entry(tables.device_j, row) + compute.transmit_j(power_w, airtime_s)) * works
    spent_j = state.spent_j
    if edge.limited_energy:
        spent_j = spent_j.scatter_add(-1, draws.device, energy_j)
    queue_s = (servers.finish_s - server_s - devices.sent_s).clamp(min=0) * offloads
    if edge.edge.drop_refused or edge.limited_energy:
        queue_s = torch.where(dropped, draws.deadline_s, queue_s)
    outcome = core.outcome_of(
        device_s=devices.computed_s * works,
        upload_s=(devices.sent_s - devices.computed_s) * offloads,
        queue_s=queue_s,
        server_s=server_s,
        download_s=exogenous.take(edge.download_s, server) * offloads,
        energy_j=energy_j,
        accuracy=_entry(tables.accuracy, row) * works,
        admitted=draws.task_mask & ~refused,
        answered=works,
        deadline_s=draws.deadline_s,
    )
    return SlotResult(outcome, refused, dropped, devices, servers, spent_j, served)


def _kind(tables: Tables, state: State) -> Tensor:
    return state.draws.model * tables.edge.edge.classes + state.draws.device_class


def _local_row(tables: Tables, state: State) -> Tensor:
    kind = _kind(tables, state)
    return kind * tables.exists.shape[1] + exogenous.take(tables.local_option, kind)


def _entry(table: Tensor, row: Tensor) -> Tensor:
    return exogenous.take(table.reshape(-1), row)


def _requested(
    tables: Tables, state: State, decision: OffloadDecision[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the rows of the option tables, the servers, whether something is sent, and whether that is feasible.

    All are [B, K]; the server is any if nothing is sent.
    """
    options, servers = tables.exists.shape[1], tables.edge.edge.servers
    option, server = decision.option.clamp(0, options - 1), decision.server.clamp(0, servers - 1)
    row = _kind(tables, state) * options + option
    bits = _entry(tables.upload_bits, row)
    rate_bps = state.draws.link_bps.gather(-1, server[..., None])[..., 0]
    valid = (option == decision.option) & ((server == decision.server) | (bits == 0))
    feasible = _feasible(tables, state, _entry(tables.exists, row), bits, _entry(tables.device_j, row), rate_bps)
    return row, server, bits > 0, valid & feasible


def _feasible(tables: Tables, state: State, exists: Tensor, bits: Tensor, device_j: Tensor, rate_bps: Tensor) -> Tensor:
    """Return whether options [B, K, ..] can be carried out on links [B, K, ..]: the only place of this rule."""
    possible = exists & ((bits == 0) | (rate_bps > 0))
    if not tables.edge.limited_energy:
        return possible
    power_w, left_j = (
        exogenous.take(tables.edge.transmit_power_w, state.draws.device_class),
        core.energy_left_j(tables.edge, state),
    )
    if bits.ndim > power_w.ndim:
        power_w, left_j = power_w[..., None], left_j[..., None]
    return possible & (device_j + compute.transmit_j(power_w, radio.upload_s(bits, rate_bps)) <= left_j)


def _dropped(tables: Tables, state: State, refused: Tensor) -> Tensor:
    if tables.edge.edge.drop_refused:
        return refused
    if not tables.edge.limited_energy:
        return torch.zeros_like(refused)
    return refused & (_entry(tables.device_j, _local_row(tables, state)) > core.energy_left_j(tables.edge, state))


def _airtime_s(tables: Tables, state: State, row: Tensor, server: Tensor, offloads: Tensor) -> Tensor:
    """Return how long each task's device sends, [B, K]."""
    rate_bps = state.draws.link_bps.gather(-1, server[..., None])[..., 0]
    if tables.edge.edge.shared_bandwidth:
        senders = queueing.counts(server, offloads, tables.edge.edge.servers)
        rate_bps = radio.shared_bps(rate_bps, senders.gather(-1, server))
    return radio.upload_s(_entry(tables.upload_bits, row) * offloads, rate_bps)


def _server_s(tables: Tables, state: State, row: Tensor, server: Tensor, offloads: Tensor) -> Tensor:
    nominal_s = _entry(tables.server_s, row * tables.edge.edge.servers + server) * state.draws.server_factor * offloads
    if not tables.edge.shares.varies:
        return nominal_s / tables.edge.shares.values
    return nominal_s / torch.where(offloads, state.draws.share.gather(-1, server), 1.0)

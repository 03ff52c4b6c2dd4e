"""The environment `blocks`: each block of a task's network chooses its place (multi-task A3C, IEEE TMC 2024).

Three pure functions over a `core.State`: `reset`, `observe`, `step`. The rule of a slot:

1. All tasks are decided and start when the slot begins. A decision is feasible if every block has a place that exists,
   none of its servers is out, every link that it needs works, and the task may spend the energy that it takes.
2. A task that is refused runs completely on its device. If the scenario drops refused tasks, or the energy does not
   suffice for that, the task is lost and counts as waiting until its deadline.
3. Neighbouring blocks in one place are one piece of work (a visit, `block_visits`). Processors and radios of devices
   and the servers serve first come, first served: slot after slot, and within a slot in the order of readiness.
4. A block's input travels if its place differs from that of the block before: up over the device's radio, one at a
   time; down at the same link's rate and between servers over the backhaul, without waiting. The answer takes the last
   server's `download_s`.
5. If a deadline limits each block, a block's time is its work with the transfer and the waiting before it (equations 8
   and 9), the task is in time if every block is, and its own deadline is the sum of its blocks'.
6. `device_s` and `upload_s` of the outcome include the waiting for the device's processor and radio; `server_s`
   includes the transfers between servers.

All fields of the outcome are 0, and the flags false, for entries without a task.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from coinfer.envs import block_visits, core, exogenous
from coinfer.envs.block_visits import Plan, SlotUsage
from coinfer.envs.core import Info, State
from coinfer.envs.exogenous import EdgeTables
from coinfer.envs.rewards import Late, Reward
from coinfer.physics import compute, radio
from coinfer.scenario.world import BlocksWorld
from coinfer.types import DEVICE, BlocksDecision, BlocksObservation, Outcome


class Tables(NamedTuple):
    """A `BlocksWorld` as tensors. A kind is a network on a class of device: `model * C + device_class`."""

    edge: EdgeTables
    device_s: Tensor
    """[X * C, M]"""
    server_s: Tensor
    """[X, M, N]"""
    input_bits: Tensor
    """[X, M]"""
    device_j: Tensor
    """[X * C, M]"""
    exists: Tensor
    """[X, M]"""
    accuracy: Tensor
    """[X]"""
    backhaul_bps: float
    block_deadlines: bool


class Served(NamedTuple):
    """What becomes of the tasks of a slot."""

    outcome: Outcome[Tensor]
    usage: SlotUsage
    refused: Tensor
    """[B, K] the decision could not be carried out."""
    dropped: Tensor
    """[B, K] the task was lost."""
    excess_s: Tensor
    """[B, K] time after the task's deadline, or that of its blocks summed (equation 13)."""


class Step(NamedTuple):
    state: State
    outcome: Outcome[Tensor]
    reward: Tensor
    """[B]"""
    info: Info
    served: Served


def load(world: BlocksWorld, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Tables:
    """Return the tables of a scenario, on a device.

    Args:
        world: a compiled scenario.
        device: where the tensors live.
        dtype: of all real numbers, float32 or float64.

    Raises:
        WorldError: if the scenario's arrays do not fit together; one line.
    """
    edge = exogenous.load_edge(world, device, dtype)

    def real(array: np.ndarray) -> Tensor:
        return torch.as_tensor(np.asarray(array, dtype=np.float64)).to(device, dtype)

    return Tables(
        edge=edge,
        device_s=real(world.block_device_s).flatten(0, 1),
        server_s=real(world.block_server_s),
        input_bits=real(world.block_input_bits),
        device_j=real(world.block_device_j).flatten(0, 1),
        exists=torch.as_tensor(np.asarray(world.block_mask, dtype=bool)).to(device),
        accuracy=real(world.accuracy),
        backhaul_bps=float(world.backhaul_bps),
        block_deadlines=world.block_deadlines,
    )


def reset(tables: Tables, seeds: Tensor) -> State:
    """Return idle worlds at the first slot of their episodes.

    Args:
        tables: from `load`.
        seeds: [B] int64, one episode each.
    """
    return core.initial_state(tables.edge, seeds)


def observe(tables: Tables, state: State) -> BlocksObservation[Tensor]:
    """Return the observation of each world, [B, ..], with stale servers and believed link rates.

    Args:
        tables: from `load`.
        state: at the beginning of a slot.
    """
    draws, kind = state.draws, _kind(tables, state)
    backlog_s, room, share = core.observed_servers(tables.edge, state)
    server_s = exogenous.take_rows(tables.server_s.mT, draws.model).mT  # sums over blocks read neighbours in memory
    if tables.edge.shares.varies:
        server_s = server_s / torch.where(share > 0, share, 1.0)[:, None, None, :]
    exists = exogenous.take_rows(tables.exists, draws.model) & draws.task_mask[..., None]
    limited = exists if tables.block_deadlines else torch.zeros_like(exists)
    return BlocksObservation(
        block_device_s=exogenous.take_rows(tables.device_s, kind),
        block_server_s=server_s,
        block_input_bits=exogenous.take_rows(tables.input_bits, draws.model),
        block_device_j=exogenous.take_rows(tables.device_j, kind),
        block_mask=exists,
        task_mask=draws.task_mask,
        deadline_s=_deadline_s(tables, state),
        uplink_bps=draws.believed_bps,
        backhaul_bps=torch.full_like(backlog_s[:, :1], tables.backhaul_bps),
        device_backlog_s=state.device_backlog_s.gather(-1, draws.device),
        server_backlog_s=backlog_s,
        server_room=room,
        energy_left_j=core.energy_left_j(tables.edge, state),
        observation_age_s=torch.full_like(backlog_s, tables.edge.edge.staleness_slots * tables.edge.edge.slot_s),
        uplink_backlog_s=state.uplink_backlog_s.gather(-1, draws.device),
        block_deadline_s=torch.where(limited, draws.deadline_s[..., None], torch.inf),
    )


def step(tables: Tables, state: State, decision: BlocksDecision[Tensor], reward: Reward) -> Step:
    """Run the tasks of a slot as decided and go to the next slot.

    Args:
        tables: from `load`.
        state: at the beginning of the slot; unchanged.
        decision: [B, K, M]; entries without a block do not matter.
        reward: from the outcome and draws of the slot to rewards [B].

    Returns:
        The next state, the outcome [B, K] and reward [B] of the slot, and `Info`. Reset the worlds that are `truncated`
            before the next step.
    """
    edge = tables.edge
    served = serve(tables, state, decision)
    outcome, usage = served.outcome, served.usage
    if isinstance(reward, Late):
        paid = reward.of_excess(outcome, served.excess_s, state.draws)
    else:
        paid = reward(outcome, state.draws)
    spent_j = state.spent_j
    if edge.limited_energy:
        spent_j = spent_j.scatter_add(-1, state.draws.device, outcome.energy_j)
    after = core.next_slot(
        edge,
        state,
        device_backlog_s=usage.processor_s,
        uplink_backlog_s=usage.radio_s,
        server_backlog_s=usage.server_s,
        spent_j=spent_j,
    )
    truncated = after.slot >= edge.edge.slots
    info = Info(truncated, served.refused, served.dropped, usage.server_tasks, usage.server_work_s)
    return Step(after, outcome, paid, info, served)


def serve(tables: Tables, state: State, decision: BlocksDecision[Tensor]) -> Served:
    """Return what becomes of the tasks of a slot, without going to the next slot.

    Args:
        tables: from `load`.
        state: at the beginning of the slot; unchanged.
        decision: [B, K, M]; entries without a block do not matter.
    """
    edge, draws = tables.edge, state.draws
    place = _place(tables, decision)
    plan = _plan(tables, state, place, draws.task_mask)
    refused = draws.task_mask & ~_feasible(tables, state, decision, plan)
    local_j = exogenous.take(tables.device_j.sum(-1), _kind(tables, state))
    dropped = refused & (edge.edge.drop_refused | (local_j > core.energy_left_j(edge, state)))
    works = draws.task_mask & ~dropped
    if refused.any():
        plan = _plan(tables, state, torch.where(refused[..., None], DEVICE, place), works)
    work_s, deadline_s = _work_s(tables, state, plan), _deadline_s(tables, state)
    usage = block_visits.run_visits(edge, state, block_visits.visits_of(edge, plan, work_s))
    power_w = exogenous.take(edge.transmit_power_w, draws.device_class)
    outcome = core.outcome_of(
        device_s=usage.device_s,
        upload_s=usage.upload_s,
        queue_s=torch.where(dropped, deadline_s, usage.queue_s),
        server_s=usage.on_server_s,
        download_s=usage.download_s + _answer_s(tables, plan),
        energy_j=_device_j(tables, state, plan) + compute.transmit_j(power_w, usage.airtime_s),
        accuracy=exogenous.take(tables.accuracy, draws.model) * works,
        admitted=draws.task_mask & ~refused,
        answered=works,
        deadline_s=deadline_s,
    )
    excess_s = _excess_s(tables, state, plan, work_s, usage.before_s, outcome)
    if tables.block_deadlines:
        outcome = outcome._replace(in_time=works & (excess_s <= 0))
    return Served(outcome, usage, refused, dropped, excess_s)


def feasible(tables: Tables, state: State, decision: BlocksDecision[Tensor]) -> Tensor:
    """Return whether each task's decision can be carried out, [B, K] bool: the only place of this rule.

    Args:
        tables: from `load`.
        state: at the beginning of the slot.
        decision: [B, K, M]; places out of range are not feasible.
    """
    everybody = torch.ones_like(state.draws.task_mask)
    return _feasible(tables, state, decision, _plan(tables, state, _place(tables, decision), everybody))


def _feasible(tables: Tables, state: State, decision: BlocksDecision[Tensor], plan: Plan) -> Tensor:
    """Return whether each decision can be carried out, [B, K]; means nothing for tasks that the plan leaves out."""
    fails = plan.exists & (plan.place != decision.place - 1)
    if not tables.edge.always_room:
        server = plan.place.clamp(min=0).flatten(1)
        room = core.room(tables.edge, state).gather(-1, server).reshape(plan.place.shape)
        fails |= plan.on_server & (room <= 0)
    broken = plan.moves & (plan.bits > 0) & (plan.rate_bps <= 0)
    possible = ~(fails | broken).any(-1)
    if not tables.edge.limited_energy:
        return possible
    power_w = exogenous.take(tables.edge.transmit_power_w, state.draws.device_class)
    airtime_s = (radio.upload_s(plan.bits, plan.rate_bps + broken) * plan.uploads).sum(-1)
    spends_j = _device_j(tables, state, plan) + compute.transmit_j(power_w, airtime_s)
    return possible & (spends_j <= core.energy_left_j(tables.edge, state))


def _device_j(tables: Tables, state: State, plan: Plan) -> Tensor:
    """Return the energy that each task's blocks take on its device, [B, K]."""
    block_j = exogenous.take_rows(tables.device_j, _kind(tables, state))
    return (block_j * (plan.exists ^ plan.on_server)).sum(-1)


def _kind(tables: Tables, state: State) -> Tensor:
    return state.draws.model * tables.edge.edge.classes + state.draws.device_class


def _place(tables: Tables, decision: BlocksDecision[Tensor]) -> Tensor:
    """Return the places as a plan has them: `DEVICE`, else the server; those out of range are moved into it."""
    return (decision.place - 1).clamp(DEVICE, tables.edge.edge.servers - 1)


def _plan(tables: Tables, state: State, place: Tensor, works: Tensor) -> Plan:
    draws = state.draws
    exists = exogenous.take_rows(tables.exists, draws.model) & works[..., None]
    previous = torch.nn.functional.pad(place[..., :-1], (1, 0), value=DEVICE)
    moves = exists & (place != previous)
    at_server, from_server = place >= 0, previous >= 0
    bits = exogenous.take_rows(tables.input_bits, draws.model) * moves
    link_bps = draws.link_bps.gather(-1, torch.maximum(place, previous).clamp_(min=0))
    rate_bps = torch.where(at_server & from_server, tables.backhaul_bps, link_bps)
    return Plan(exists, place, exists & at_server, moves, moves & ~from_server, bits, rate_bps)


def _work_s(tables: Tables, state: State, plan: Plan) -> Tensor:
    """Return the time of each block in its place, [B, K, M]; 0 if there is no block."""
    draws, (blocks, servers) = state.draws, tables.server_s.shape[1:]
    server = plan.place.clamp(min=0)
    first = servers * torch.arange(blocks, device=server.device) + server
    on_server_s = exogenous.take(tables.server_s.reshape(-1), (draws.model * blocks * servers)[..., None] + first)
    share = draws.share.gather(-1, server.flatten(1)).reshape(server.shape)
    on_server_s = on_server_s * draws.server_factor[..., None] / share
    on_device_s = exogenous.take_rows(tables.device_s, _kind(tables, state)) * draws.device_factor[..., None]
    return torch.where(plan.on_server, on_server_s, on_device_s) * plan.exists


def _deadline_s(tables: Tables, state: State) -> Tensor:
    """Return the deadline of each task, [B, K]: the drawn one, or the sum of its blocks'."""
    draws = state.draws
    return draws.deadline_s * tables.exists.sum(-1)[draws.model] if tables.block_deadlines else draws.deadline_s


def _excess_s(
    tables: Tables, state: State, plan: Plan, work_s: Tensor, before_s: Tensor, outcome: Outcome[Tensor]
) -> Tensor:
    """Return the time after the deadline of each task, or that of its blocks summed (equation 13), [B, K].

    A lost task waits until its deadline and exceeds nothing.
    """
    if not tables.block_deadlines:
        return (outcome.latency_s - state.draws.deadline_s).clamp(min=0)
    begins = plan.moves.clone()
    begins[..., 0] = True
    block_s = work_s + before_s.gather(-1, plan.moves.cumsum(-1)) * begins
    return ((block_s - state.draws.deadline_s[..., None]).clamp(min=0) * plan.exists).sum(-1)


def _answer_s(tables: Tables, plan: Plan) -> Tensor:
    """Return the time of the way back from the server of the last block, [B, K]."""
    last = (plan.exists.sum(-1, keepdim=True) - 1).clamp(min=0)
    place, on_server = (field.gather(-1, last)[..., 0] for field in (plan.place, plan.on_server))
    return exogenous.take(tables.edge.download_s, place.clamp_(min=0)) * on_server

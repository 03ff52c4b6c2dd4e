"""Deciders that know the true state, which no policy can. They show how much policies could still gain."""

from collections.abc import Callable

import torch
from torch import Tensor

from coinfer.envs import core, offload
from coinfer.envs.core import State
from coinfer.envs.exogenous import EdgeTables
from coinfer.envs.rewards import Reward
from coinfer.policies.bounds import slot, slot_program
from coinfer.policies.bounds.slot import BoundError, Cost
from coinfer.types import OffloadDecision, OffloadObservation

Decider = Callable[[State, OffloadObservation[Tensor]], OffloadDecision[Tensor]]
Oracle = Callable[[offload.Tables], Decider]

PROGRAM_LIMIT_S = 5.0
"""Time limit of HiGHS for one slot of one world."""


def known_state(edge: EdgeTables, state: State) -> dict[str, Tensor]:
    """Return the observation's fields of links and servers if nothing were stale.

    Args:
        edge: the world's links and servers.
        state: at the beginning of a slot. Link rates are those of a link that nobody shares.
    """
    return {
        "uplink_bps": state.draws.link_bps,
        "server_backlog_s": state.server_backlog_s,
        "server_room": core.room(edge, state),
        "observation_age_s": torch.zeros_like(state.server_backlog_s),
    }


def true_share(state: State) -> Tensor:
    """Return the share of each server that is there for tasks, [B, 1, 1, N]; 1 for one that is out.

    Args:
        state: at the beginning of a slot.
    """
    return torch.where(state.draws.share > 0, state.draws.share, 1.0)[:, None, None, :]


def true_observation(tables: offload.Tables, state: State) -> OffloadObservation[Tensor]:
    """Return the observation if nothing were stale and every time and rate were known.

    Args:
        tables: from `offload.load`.
        state: at the beginning of a slot. Link rates are those of a link that nobody shares.
    """
    draws = state.draws
    kind = draws.model * tables.edge.edge.classes + draws.device_class
    return offload.observe(tables, state)._replace(
        option_device_s=tables.device_s[kind] * draws.device_factor[..., None],
        option_server_s=tables.server_s[kind] * draws.server_factor[..., None, None] / true_share(state),
        option_mask=offload.option_feasible(tables, state, draws.link_bps) & draws.task_mask[..., None],
        **known_state(tables.edge, state),
    )


def idle_observation(tables: offload.Tables, state: State) -> OffloadObservation[Tensor]:
    """Return the true observation if nothing waited and every server that is not out had room.

    Args:
        tables: from `offload.load`.
        state: only its draws are read.
    """
    true = true_observation(tables, state)
    return true._replace(
        option_mask=tables.exists[state.draws.model * tables.edge.edge.classes + state.draws.device_class],
        device_backlog_s=torch.zeros_like(true.device_backlog_s),
        uplink_backlog_s=torch.zeros_like(true.uplink_bps),
        server_backlog_s=torch.zeros_like(true.server_backlog_s),
        server_room=torch.where(state.draws.share > 0, torch.inf, 0.0),
    )


def unlimited_room(observation: OffloadObservation[Tensor]) -> OffloadObservation[Tensor]:
    """Return the same observation with unlimited room on all servers, so that refused decisions are tried too.

    Args:
        observation: of any worlds; unchanged.
    """
    return observation._replace(server_room=torch.full_like(observation.server_room, torch.inf))


def slot_cost(tables: offload.Tables, state: State) -> Cost:
    """Return a cost: the summed latency of the slot's tasks as the environment itself would serve them.

    It includes shared links, several tasks of one device, admission and losses.

    Args:
        tables: from `offload.load`.
        state: at the beginning of the slot.
    """
    servers = tables.edge.edge.servers

    def cost(choice: Tensor) -> Tensor:
        worlds, choices, tasks = choice.shape
        tiled = tile(state, choices)
        flat = choice.reshape(worlds * choices, tasks)
        decision = OffloadDecision(torch.div(flat, servers, rounding_mode="floor"), flat % servers)
        return offload.serve(tables, tiled, decision).outcome.latency_s.sum(-1).reshape(worlds, choices)

    return cost


def tile(state: State, choices: int) -> State:
    """Return a state in which every world is repeated, copies side by side.

    Args:
        state: of B worlds; unchanged.
        choices: number of copies.
    """

    def repeated(field: Tensor) -> Tensor:
        return field.repeat_interleave(choices, 0)

    draws = core.map_worlds(lambda field: field if field.dim() == 1 else repeated(field), state.draws)
    return core.map_worlds(repeated, state._replace(draws=()))._replace(draws=draws)  # pyright: ignore[reportArgumentType]


def slot_descent(tables: offload.Tables) -> Decider:
    """Return a decider: coordinate descent on the true summed latency of each slot.

    Within a slot hardly anything is better, unless places are so few that tasks would have to exchange them; it does
    not look ahead.

    Args:
        tables: from `offload.load`.
    """

    def decide(state: State, observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
        true = true_observation(tables, state)
        return slot.coordinate_descent(true, slot_cost(tables, state)).decision

    return decide


def slot_optimum(tables: offload.Tables) -> Decider:
    """Return a decider: the best decision of each slot by exhaustive search, for slots of few tasks.

    Args:
        tables: from `offload.load`. The decider raises `BoundError` if there are too many decisions.
    """

    def decide(state: State, observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
        return slot.exhaustive(true_observation(tables, state), slot_cost(tables, state)).decision

    return decide


def slot_milp(tables: offload.Tables) -> Decider:
    """Return a decider: the least summed latency of each slot that HiGHS finds in `PROGRAM_LIMIT_S`, world after world.

    If HiGHS finds none, coordinate descent decides. The program leaves out that uploads share a link, and that tasks
    may share a device.

    Args:
        tables: from `offload.load`.
    """

    def decide(state: State, observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
        true = true_observation(tables, state)
        worlds = [_solved(type(true)(*(field[i] for field in true))) for i in range(state.slot.shape[0])]
        return OffloadDecision(*(torch.stack(parts) for parts in zip(*worlds, strict=True)))

    return decide


def _solved(one: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
    try:
        return slot_program.least_latency(one, PROGRAM_LIMIT_S).decision
    except BoundError:
        return slot.coordinate_descent(one).decision


def reward_optimum(reward: Reward) -> Oracle:
    """Return an oracle: the choice of greatest reward in each slot by exhaustive search, for slots of one task.

    Args:
        reward: from the outcome and draws of a slot to rewards [B].
    """

    def oracle(tables: offload.Tables) -> Decider:
        servers = tables.edge.edge.servers
        choices = tables.exists.shape[1] * servers

        def decide(state: State, observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
            choice = torch.arange(choices, device=state.slot.device).repeat(state.slot.shape[0])[:, None]
            tiled = tile(state, choices)
            decision = OffloadDecision(torch.div(choice, servers, rounding_mode="floor"), choice % servers)
            served = offload.serve(tables, tiled, decision)
            value = reward(served.outcome, tiled.draws).masked_fill(served.refused[:, 0], -torch.inf)
            best = value.reshape(-1, choices).argmax(-1, keepdim=True)
            return OffloadDecision(torch.div(best, servers, rounding_mode="floor"), best % servers)

        return decide

    return oracle


ORACLES: dict[str, Oracle] = {"slot-descent": slot_descent, "slot-optimum": slot_optimum, "slot-milp": slot_milp}
"""Names on the command line."""

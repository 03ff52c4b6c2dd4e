"""Deciders that know what no policy can: what is true now. They show how much room there is above the policies."""

from collections.abc import Callable

import torch
from torch import Tensor

from coinfer.envs import core, offload
from coinfer.envs.core import State
from coinfer.envs.rewards import Reward
from coinfer.policies.bounds import slot, slot_program
from coinfer.policies.bounds.slot import BoundError, Cost
from coinfer.types import OffloadDecision, OffloadObservation

Decider = Callable[[State, OffloadObservation], OffloadDecision]
Oracle = Callable[[offload.Tables], Decider]

PROGRAM_LIMIT_S = 5.0
"""Of HiGHS for one slot of one world."""


def truth(tables: offload.Tables, state: State) -> OffloadObservation:
    """The observation if nothing were stale and every time and rate were known; rates as if nobody shared them."""
    draws = state.draws
    kind = draws.model * tables.edge.edge.classes + draws.device_class
    share = torch.where(draws.share > 0, draws.share, 1.0)[:, None, None, :]
    return offload.observe(tables, state)._replace(
        option_device_s=tables.device_s[kind] * draws.device_factor[..., None],
        option_server_s=tables.server_s[kind] * draws.server_factor[..., None, None] / share,
        option_mask=offload.option_feasible(tables, state, draws.link_bps) & draws.task_mask[..., None],
        uplink_bps=draws.link_bps,
        server_backlog_s=state.server_backlog_s,
        server_room=core.room(tables.edge, state),
        observation_age_s=torch.zeros_like(state.server_backlog_s),
    )


def unloaded(tables: offload.Tables, state: State) -> OffloadObservation:
    """The same with nothing waiting and room on every server that is not out."""
    true = truth(tables, state)
    return true._replace(
        option_mask=tables.exists[state.draws.model * tables.edge.edge.classes + state.draws.device_class],
        device_backlog_s=torch.zeros_like(true.device_backlog_s),
        uplink_backlog_s=torch.zeros_like(true.uplink_bps),
        server_backlog_s=torch.zeros_like(true.server_backlog_s),
        server_room=torch.where(state.draws.share > 0, torch.inf, 0.0),
    )


def everything(true: OffloadObservation) -> OffloadObservation:
    """The same with room everywhere, so that also what would be refused is tried."""
    return true._replace(server_room=torch.full_like(true.server_room, torch.inf))


def served_cost(tables: offload.Tables, state: State) -> Cost:
    """Summed latency of the slot's tasks as the environment itself would serve them: shared links, tasks of the same
    device, admission and losses included."""
    servers = tables.edge.edge.servers

    def cost(choice: Tensor) -> Tensor:
        worlds, ways, tasks = choice.shape
        many = tiled(state, ways)
        flat = choice.reshape(worlds * ways, tasks)
        decision = OffloadDecision(torch.div(flat, servers, rounding_mode="floor"), flat % servers)
        return offload.serve(tables, many, decision).outcome.latency_s.sum(-1).reshape(worlds, ways)

    return cost


def tiled(state: State, ways: int) -> State:
    """Every world so many times, one beside the other."""
    fields = {name: value.repeat_interleave(ways, 0) for name, value in state._asdict().items() if name != "draws"}
    draws = (field if field.dim() == 1 else field.repeat_interleave(ways, 0) for field in state.draws)
    return State(**fields, draws=type(state.draws)(*draws))


def slot_descent(tables: offload.Tables) -> Decider:
    """Coordinate descent on the true summed latency of each slot. Within a slot hardly anything is better, unless
    places are so few that tasks would have to exchange them; it does not look ahead."""

    def decide(state: State, observation: OffloadObservation) -> OffloadDecision:
        true = truth(tables, state)
        return slot.coordinate_descent(true, served_cost(tables, state)).decision

    return decide


def slot_optimum(tables: offload.Tables) -> Decider:
    """The very best decision of each slot by exhaustive search, for slots of few tasks."""

    def decide(state: State, observation: OffloadObservation) -> OffloadDecision:
        return slot.exhaustive(truth(tables, state), served_cost(tables, state)).decision

    return decide


def slot_milp(tables: offload.Tables) -> Decider:
    """The least summed latency of each slot as HiGHS finds it in `PROGRAM_LIMIT_S`, world after world; descent where it
    finds none. Its program leaves out that uploads share a link, and that tasks may share a device."""

    def decide(state: State, observation: OffloadObservation) -> OffloadDecision:
        true = truth(tables, state)
        worlds = [_solved(type(true)(*(field[i] for field in true))) for i in range(state.slot.shape[0])]
        return OffloadDecision(*(torch.stack(parts) for parts in zip(*worlds, strict=True)))

    return decide


def _solved(one: OffloadObservation) -> OffloadDecision:
    try:
        return slot_program.least_latency(one, PROGRAM_LIMIT_S).decision
    except BoundError:
        return slot.coordinate_descent(one).decision


def reward_optimum(reward: Reward) -> Oracle:
    """The choice of greatest reward in each slot by exhaustive search, for slots of one task."""

    def made(tables: offload.Tables) -> Decider:
        servers = tables.edge.edge.servers
        ways = tables.exists.shape[1] * servers

        def decide(state: State, observation: OffloadObservation) -> OffloadDecision:
            choice = torch.arange(ways, device=state.slot.device).repeat(state.slot.shape[0])[:, None]
            many = tiled(state, ways)
            decision = OffloadDecision(torch.div(choice, servers, rounding_mode="floor"), choice % servers)
            served = offload.serve(tables, many, decision)
            value = reward(served.outcome, many.draws).masked_fill(served.refused[:, 0], -torch.inf)
            best = value.reshape(-1, ways).argmax(-1, keepdim=True)
            return OffloadDecision(torch.div(best, servers, rounding_mode="floor"), best % servers)

        return decide

    return made


ORACLES: dict[str, Oracle] = {"slot-descent": slot_descent, "slot-optimum": slot_optimum, "slot-milp": slot_milp}
"""What the command line calls them."""

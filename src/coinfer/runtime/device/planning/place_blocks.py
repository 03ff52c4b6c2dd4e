"""What a policy that places blocks sees of one request, and the plan that its answer stands for."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np

from coinfer.runtime.device.pair_links import Pair, PairLink
from coinfer.runtime.device.planning.blocks_policy import PlacedBlocks
from coinfer.runtime.device.planning.observation import choice_latency_s
from coinfer.runtime.device.planning.plan import DeviceState, Plan, SeveralHops, route_of
from coinfer.runtime.device.planning.planner import Planner
from coinfer.runtime.device.planning.several_hops import hop_times, part_of, plan_of, speeds
from coinfer.types import DEVICE, BlocksObservation

UNKNOWN_BPS = 1e9
"""Rate between servers for a policy where none was measured; no route over them is taken then."""


def observe_blocks(
    planner: Planner, blocks: PlacedBlocks, plan: Plan, state: DeviceState, links: Mapping[Pair, PairLink]
) -> BlocksObservation[np.ndarray]:
    """Return what a policy for blocks sees of one request: K tasks, of which only the first exists.

    Times between servers count at the slowest rate that is known, and a deadline is shared out evenly among the blocks.

    Args:
        planner: of the device.
        blocks: that the policy places.
        plan: of the request, made without the policy.
        state: what the device believes now.
        links: from server to server, by their addresses.
    """
    o, count = plan.observation, len(blocks.block_s)
    device, *servers = speeds(planner.at(()), state)
    deadline_s, block_s = float(o.deadline_s[0]), blocks.block_s

    def tasks(row: np.ndarray) -> np.ndarray:
        return np.repeat(np.asarray(row, dtype=float)[None], blocks.tasks, axis=0)

    exists = np.arange(blocks.tasks) == 0
    return BlocksObservation(
        block_device_s=tasks(block_s * device),
        block_server_s=tasks(block_s[:, None] * np.array(servers)),
        block_input_bits=tasks(blocks.input_bits),
        block_device_j=tasks(block_s * device * planner.objective.power_w),
        block_mask=np.repeat(exists[:, None], count, axis=1),
        task_mask=exists,
        deadline_s=tasks(np.array(deadline_s)),
        uplink_bps=tasks(o.uplink_bps[0]),
        backhaul_bps=np.array([min((link.rate_bps for link in links.values()), default=UNKNOWN_BPS)]),
        device_backlog_s=tasks(o.device_backlog_s[0]),
        server_backlog_s=o.server_backlog_s,
        server_room=o.server_room,
        energy_left_j=tasks(o.energy_left_j[0]),
        observation_age_s=o.observation_age_s,
        uplink_backlog_s=tasks(np.array(o.uplink_backlog_s[0].max(initial=0.0))),
        block_deadline_s=tasks(np.full(count, deadline_s / count)),
    )


def plan_of_places(
    planner: Planner,
    blocks: PlacedBlocks,
    place: Sequence[int],
    plan: Plan,
    state: DeviceState,
    links: Mapping[Pair, PairLink],
) -> Plan | None:
    """Return the plan in which every block runs in its place; None if that cannot be carried out.

    It cannot if a block comes back to the device, a server may not be asked, or no link between two servers is known.

    Args:
        planner: of the device.
        blocks: that were placed.
        place: [M] 0 is the device, n is server n - 1.
        plan: of the request, made without the policy.
        state: what the device believes now.
        links: from server to server, by their addresses.

    Raises:
        ValueError: if there is no such place.
    """
    if len(place) != len(blocks.block_s) or not all(0 <= one <= len(planner.servers) for one in place):
        raise ValueError(f"places are {list(place)}; expected {len(blocks.block_s)} of 0 to {len(planner.servers)}")
    visits = _visits(place)
    if any(server == DEVICE for server, _, _ in visits[1:]):
        return None
    visits = visits[1:] if visits[0][0] == DEVICE else visits
    options = planner.options
    if not visits:
        local = np.flatnonzero(options.is_local & (options.exit == len(planner.exits) - 1))
        return _one_hop(planner, plan, int(local[0]), DEVICE)
    cut, bits = blocks.cuts[visits[0][1]], blocks.bits
    same = [i for i, one in enumerate(options.cuts) if one == cut and options.upload_bits[i] > 0]
    if not same:
        return None
    option = min(same, key=lambda i: (options.bits[i] != bits, options.upload_bits[i]))
    if len(visits) == 1:
        return _one_hop(planner, plan, option, visits[0][0])
    parts = [
        part_of(planner.at(()), server, (blocks.cuts[first], blocks.cuts[end]), bits) for server, first, end in visits
    ]
    hops = SeveralHops(option, tuple(parts))
    timed = hop_times(hops, plan.observation, state, links, planner.servers, planner.computes)
    return None if timed is None else plan_of(plan, planner, timed)


def _visits(place: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return the server, or `DEVICE`, the first block and the block after the last one of each visit."""
    visits, first = [], 0
    for one, group in groupby(place):
        end = first + len(list(group))
        visits.append((one - 1, first, end))
        first = end
    return visits


def _one_hop(planner: Planner, plan: Plan, option: int, server: int) -> Plan | None:
    predicted_s = choice_latency_s(plan.observation, option, server, planner.computes)
    if predicted_s == math.inf:
        return None
    options = planner.options
    return plan._replace(
        option=option,
        server=server,
        predicted_s=predicted_s,
        route=route_of(options, option, server, planner.servers, plan.route.deadline_s),
        tail_s=planner.at(()).tail_s[options.cuts[option], options.outputs[option]],
        several=None,
    )

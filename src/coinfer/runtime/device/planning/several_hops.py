"""Routes over several servers: which one may be best now, and how long it takes. Pure functions over values.

`partition.multiway` finds a route from what is believed of nodes and links. It knows no queue that becomes shorter
while a request is on its way, no coding and no fixed cost of a piece; `hop_times` does, by the rule of
`physics.latency`, and has the last word.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from coinfer.options.table import Names, Options, Piece
from coinfer.partition.multiway import multiway
from coinfer.partition.problem import Partition, Problem, wiring
from coinfer.physics import latency
from coinfer.physics.radio import upload_s
from coinfer.runtime.device.estimate import Work
from coinfer.runtime.device.forecast import room_now, server_wait_s, service_now_s, standing_wait_s, usable
from coinfer.runtime.device.pair_links import Pair, PairLink
from coinfer.runtime.device.planning.blocks_policy import keeps_answers
from coinfer.runtime.device.planning.message_size import between_bits
from coinfer.runtime.device.planning.plan import DeviceState, Part, Plan, SeveralHops
from coinfer.runtime.device.planning.planner import Planner
from coinfer.runtime.device.planning.sized import SizedTimes
from coinfer.types import Hop, OffloadObservation
from coinfer.units import FLOAT32_BITS

MIN_GAIN = 0.05
"""Share of the latency that several servers must save: they are more nodes that may fail."""
OUT_OF_REACH_BPS = 1e-3
"""Rate of a link that is not known; nothing is sent over it."""
Links = Mapping[Pair, PairLink]


def find_route(planner: Planner, state: DeviceState, links: Links) -> SeveralHops | None:
    """Return the route that is best now if that goes over several servers, else None.

    Args:
        planner: of the device.
        state: what it believes now.
        links: from server to server, by their addresses.
    """
    known = planner.at(())
    bits = between_bits(planner.bits)
    problem = problem_of(planner, state, links, bits)
    accurate = planner.options.accuracy >= planner.objective.min_accuracy
    first_bits = _first_bits(known, planner.options, accurate)
    found = multiway(problem, first_bits=first_bits, further_cuts=_further_cuts(known, bits))
    servers = tuple(node - 1 for node in found.nodes[1:])
    if len(servers) < 2 or len(set(servers)) < len(servers):
        return None
    return _several_hops(known, planner.options, accurate, found, servers, bits)


def problem_of(planner: Planner, state: DeviceState, links: Links, bits: int) -> Problem:
    """Return the question where each block should run, from what the device believes now.

    Args:
        planner: of the device.
        state: what it believes now.
        links: from server to server, by their addresses.
        bits: per element of what is sent.
    """
    known, names, now_s = planner.at(()), list(planner.servers), state.now_s
    speed = speeds(known, state)
    rate_bps = np.full((len(speed), len(speed)), OUT_OF_REACH_BPS)
    waits_s = np.zeros(len(speed))
    for j, server in enumerate(state.servers):
        if usable(server, now_s) and room_now(server, now_s) > 0:
            rate_bps[0, j + 1] = server.link.rate_bps
            for i, name in enumerate(names):
                if (name, names[j]) in links:
                    rate_bps[i + 1, j + 1] = links[name, names[j]].rate_bps
        waits_s[j + 1] = server_wait_s(server, now_s) + server.link.round_trip_s + known.table.call_s * speed[j + 1]
    sizes = {name: _sent_bits(known, (name,), bits) for name in wiring(known.graph).tensors}
    return Problem(known.graph, np.outer(speed, known.table.op_s), sizes, rate_bps, waits_s)


def speeds(known: SizedTimes, state: DeviceState) -> list[float]:
    """Return the times [1 + N] of the device and of each server over the profiled machine's, for the whole network.

    Args:
        known: of the network.
        state: what the device believes now.
    """
    whole = known.graph.inputs, known.graph.outputs
    whole_s = known.profiled_s(*whole)
    return [
        state.scale,
        *(service_now_s(one, Work(whole), whole_s, state.now_s) / whole_s for one in state.servers),
    ]


def hop_times(
    hops: SeveralHops,
    observation: OffloadObservation[np.ndarray],
    state: DeviceState,
    links: Links,
    names: Sequence[str],
    computes: np.ndarray,
) -> SeveralHops | None:
    """Return a route with the times that are predicted of it now; None if it cannot be taken.

    Args:
        hops: the route.
        observation: of the request.
        state: what the device believes now.
        links: from server to server, by their addresses.
        names: addresses of the servers.
        computes: [O] as for `physics.latency.offload_ready_s`.
    """
    o, first, now_s = observation, hops.parts[0].server, state.now_s
    pairs = [(names[a.server], names[b.server]) for a, b in pairwise(hops.parts)]
    is_open = o.option_mask[0, hops.option] and np.isfinite(o.option_server_s[0, hops.option, first])
    if not is_open or any(o.server_room[part.server] <= 0 for part in hops.parts) or any(p not in links for p in pairs):
        return None
    head_s = float(o.option_device_s[0, hops.option]) + float(o.device_backlog_s[0]) * bool(computes[hops.option])
    on_air_s = upload_s(float(o.option_upload_bits[0, hops.option]), float(o.uplink_bps[0, first]))
    at_s = float(latency.ready_s(head_s, float(o.uplink_backlog_s[0, first]), on_air_s))
    services_s, first_end_s = [], 0.0
    for i, part in enumerate(hops.parts):
        server = state.servers[part.server]
        if i:
            link = links[pairs[i - 1]]
            at_s += part.received_bits / link.rate_bps + link.round_trip_s
        beside_s = standing_wait_s(server, now_s) + (server.link.round_trip_s if i == 0 else 0.0)
        services_s.append(service_now_s(server, part.work, part.profiled_s, now_s) + beside_s)
        at_s = float(latency.end_s(at_s, float(o.server_backlog_s[part.server]), services_s[-1]))
        first_end_s = first_end_s or at_s
    if not np.isfinite(at_s):
        return None
    return hops._replace(predicted_s=at_s, first_s=services_s[0], onward_s=at_s - first_end_s)


def better_plan(plan: Plan, planner: Planner, routes: Sequence[SeveralHops], state: DeviceState, links: Links) -> Plan:
    """Return the plan of the best of some routes over several servers if it saves enough, else the plan that is given.

    Args:
        plan: the best one without them.
        planner: of the device.
        routes: that may be best.
        state: what the device believes now.
        links: from server to server, by their addresses.
    """
    o, best = plan.observation, None
    limit_s = plan.predicted_s * (1 - MIN_GAIN)
    for route in routes:
        if o.option_accuracy[0, route.option] < plan.objective.min_accuracy:
            continue
        timed = hop_times(route, o, state, links, planner.servers, planner.computes)
        if timed is not None and timed.predicted_s < limit_s:
            best, limit_s = timed, timed.predicted_s
    return plan if best is None else plan_of(plan, planner, best)


def plan_of(plan: Plan, planner: Planner, hops: SeveralHops) -> Plan:
    """Return the plan of a route over several servers.

    Args:
        plan: of the request with at most one server.
        planner: of the device.
        hops: the route, with its times.
    """
    options, names, known = planner.options, planner.servers, planner.at(())
    bits = [part.bits for part in hops.parts[1:]] + [FLOAT32_BITS]
    cut = options.cuts[hops.option], int(options.bits[hops.option])
    onward = [Hop(names[part.server], part.work.piece[1], width) for part, width in zip(hops.parts, bits, strict=True)]
    return plan._replace(
        option=hops.option,
        server=hops.parts[0].server,
        predicted_s=hops.predicted_s,
        route=plan.route._replace(hops=(Hop("device", *cut), *onward), exit=int(options.exit[hops.option])),
        tail_s=known.tail_s[options.cuts[hops.option], options.outputs[hops.option]],
        several=hops,
    )


def _first_bits(known: SizedTimes, options: Options, accurate: np.ndarray) -> np.ndarray:
    """Return [blocks] what the device sends at each cut: only its options that are accurate enough, from where any
    server or the device itself can finish."""
    least: dict[frozenset[str], float] = {}
    for cut, bits, enough in zip(options.cuts, options.upload_bits.tolist(), accurate, strict=True):
        if bits > 0 and enough:
            least[frozenset(cut)] = min(bits, least.get(frozenset(cut), math.inf))
    return np.array([least.get(frozenset(cut), math.inf) for cut in _cuts(known)])


def _further_cuts(known: SizedTimes, bits: int) -> np.ndarray:
    """Return [blocks] where servers may cut: what fits into a message and, if only exact answers are allowed, what is
    known to keep them."""
    return np.array([keeps_answers(known.graph, known.table, cut, bits) for cut in _cuts(known)])


def _cuts(known: SizedTimes) -> list[Names]:
    return [cut.tensors for cut in known.graph.useful_cuts()[:-1]]


def _several_hops(
    known: SizedTimes,
    options: Options,
    accurate: np.ndarray,
    found: Partition,
    servers: tuple[int, ...],
    bits: int,
) -> SeveralHops | None:
    cuts = [cut.tensors for cut in found.cuts]
    same = [
        i
        for i, (cut, outputs) in enumerate(options.pieces)
        if set(cut) == set(cuts[0]) and outputs == known.graph.outputs and options.upload_bits[i] > 0 and accurate[i]
    ]
    if not same:
        return None
    option = min(same, key=lambda i: options.upload_bits[i])
    ends = [options.cuts[option], *cuts[1:], known.graph.outputs]
    parts = [part_of(known, server, piece, bits) for server, piece in zip(servers, pairwise(ends), strict=True)]
    return SeveralHops(option, tuple(parts))


def part_of(known: SizedTimes, server: int, piece: Piece, bits: int) -> Part:
    """Return what one of several servers does.

    Args:
        known: of the network.
        server: its index.
        piece: that it computes.
        bits: per element of what servers send to each other.
    """
    return Part(server, Work(piece), _service_s(known, *piece, bits), _sent_bits(known, piece[0], bits), bits)


def _service_s(known: SizedTimes, start: Names, end: Names, bits: int) -> float:
    """Return the profiled machine's time for a piece, with decoding and encoding."""
    graph, table = known.graph, known.table
    coding_s = table.decoding_s(graph, start, bits) + (0.0 if end == graph.outputs else _encoding_s(known, end, bits))
    return known.profiled_s(start, end) + coding_s


def _encoding_s(known: SizedTimes, names: Names, bits: int) -> float:
    return known.table.encoding_s(known.graph, names, bits)


def _sent_bits(known: SizedTimes, names: Names, bits: int) -> float:
    """Return the size of tensors on their way: pictures as the device encodes them, others as a server packs them."""
    graph = known.graph
    measured = known.table.size_bits(graph, names, bits) if set(names) <= set(graph.inputs) else None
    return float(sum(graph.tensors[name].elements for name in names) * bits) if measured is None else measured

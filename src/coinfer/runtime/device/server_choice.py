"""Has the server that a request would reach choose what the device computes and who the rest, if that costs little."""

import math
import secrets
from collections.abc import Sequence

import numpy as np

from coinfer.runtime.device import forecast
from coinfer.runtime.device.objective import Objective
from coinfer.runtime.device.parts import DeviceParts
from coinfer.runtime.device.planning.observation import choice_latency_s
from coinfer.runtime.device.planning.plan import DeviceState, Plan, route_of
from coinfer.runtime.device.terms import Terms
from coinfer.runtime.protocol.messages import InferRequest
from coinfer.runtime.protocol.protobuf import request_bits
from coinfer.runtime.protocol.task_options import ON_DEVICE, Choice, ReachableServer, TaskOption, TaskOptions
from coinfer.types import DEVICE

ASK_SHARE = 0.1
"""A device asks if the answer should come within this share of the latency that it predicts for its own plan, and waits
no longer than that: under load, a server that knows the others saves more."""
DECIDE_S = 0.003
"""A busy server takes about so long to decide: it waits 2 ms for others."""


def chosen_by_server(parts: DeviceParts, terms: Terms, plan: Plan, state: DeviceState) -> Plan:
    """Return the plan that the server chooses which the request would reach; the device's own if nobody is asked, or no
    answer comes in time that can be carried out.

    Args:
        parts: of the device.
        terms: of the request.
        plan: the device's own.
        state: what the device believed when it was made.
    """
    asked = _reached(plan, state) if _leaves_choice(parts, terms, plan) else DEVICE
    if asked == DEVICE:
        return plan
    usable = [n for n, server in enumerate(state.servers) if forecast.usable(server, state.now_s)]
    request = _question(parts, plan, state, usable)
    bits, server = request_bits(request), state.servers[asked]
    way_s = forecast.link_wait_s(server, state.now_s) + bits / server.link.rate_bps + server.link.round_trip_s
    limit_s = ASK_SHARE * plan.predicted_s
    if way_s + DECIDE_S > limit_s or not parts.client.may_choose(asked):
        return plan
    choice = parts.client.choose(asked, request, limit_s, terms.abort)
    found = None if choice is None else _carried_out(parts, plan, choice, usable)
    if found is None:
        parts.client.avoid_choices(asked)
    return (found or plan)._replace(asked_bits=bits)


def _leaves_choice(parts: DeviceParts, terms: Terms, plan: Plan) -> bool:
    """Return true if least latency is all that is wanted of a single request, and nobody has a policy of his own."""
    planner = parts.planner
    own = planner.policy is not planner.objective_policy or planner.blocks is not None
    own = own or terms.policy is not None or terms.exit is not None
    wanted = parts.config.dispatch_cut and plan.objective == Objective()
    return wanted and not (own or plan.sizes or planner.exits_early)


def _reached(plan: Plan, state: DeviceState) -> int:
    """Return the server that is asked: the plan's or, if that sends nothing, the nearest one that has room."""
    if plan.server != DEVICE:
        return plan.server
    open_ = np.flatnonzero(plan.observation.server_room > 0).tolist()
    return min(open_, key=lambda n: state.servers[n].link.round_trip_s, default=DEVICE)


def _question(parts: DeviceParts, plan: Plan, state: DeviceState, usable: Sequence[int]) -> InferRequest:
    """Return the request without tensors that says what the device could do."""
    o, options, usual = plan.observation, parts.planner.options, parts.planner.exits[-1]
    head_s = o.option_device_s[0] + np.where(parts.planner.computes, o.device_backlog_s[0], 0.0)
    servers, beside_s = [], []
    for n in usable:
        link = state.servers[n].link
        wait_s = forecast.link_wait_s(state.servers[n], state.now_s)
        servers.append(ReachableServer(parts.planner.servers[n], link.rate_bps, link.round_trip_s, wait_s))
        beside_s.append(link.round_trip_s + forecast.standing_wait_s(state.servers[n], state.now_s))
    services_s = (o.option_server_s[0][:, list(usable)] - np.array(beside_s)).clip(0).tolist()
    rows = [
        TaskOption(
            options.cuts[i],
            float(head_s[i]),
            float(bits),
            tuple(one if one < math.inf else None for one in services_s[i]) if bits > 0 else (),
            () if options.outputs[i] == usual else options.outputs[i],
            float(o.option_accuracy[0, i]),
        )
        for i, bits in enumerate(o.option_upload_bits[0])
    ]
    return InferRequest(
        parts.graph.name,
        (),
        usual,
        secrets.token_hex(8),
        fingerprint=parts.graph.short_fingerprint,
        deadline_s=plan.route.deadline_s,
        options=TaskOptions(tuple(rows), tuple(servers)),
        short=True,
    )


def _carried_out(parts: DeviceParts, plan: Plan, choice: Choice, usable: Sequence[int]) -> Plan | None:
    """Return the plan of a choice; None if it is none that was asked for. The server knows better who has room."""
    planner, o = parts.planner, plan.observation
    names = {planner.servers[n]: n for n in usable} | {ON_DEVICE: DEVICE}
    server, option = names.get(choice.node), choice.option
    if server is None or option >= len(planner.options.bits):
        return None
    if server != DEVICE:
        room = np.where(np.arange(len(o.server_room)) == server, o.server_room.clip(1), o.server_room)
        o = o._replace(server_room=room)
    predicted_s = choice_latency_s(o, option, server, planner.computes)
    if predicted_s == math.inf:
        return None
    return plan._replace(
        observation=o,
        option=option,
        server=server,
        predicted_s=predicted_s,
        route=route_of(planner.options, option, server, planner.servers, plan.route.deadline_s),
        tail_s=planner.at(plan.sizes).tail_s[planner.options.pieces[option]],
        policy=choice.policy or "server",
    )

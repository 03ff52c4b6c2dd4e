"""What planner and policies see of one request, and the predicted latency of every choice."""

import math
from collections.abc import Sequence

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.options.table import Options
from coinfer.physics import latency
from coinfer.physics.latency import offload_latency_s
from coinfer.physics.radio import upload_s
from coinfer.runtime.device.estimate import ServerEstimate, Work
from coinfer.runtime.device.forecast import (
    link_wait_s,
    room_now,
    server_wait_s,
    services_now_s,
    standing_wait_s,
    usable,
)
from coinfer.runtime.device.planning.sized import Sizes
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation, Policy


def observe(
    options: Options,
    servers: Sequence[ServerEstimate],
    deadline_s: float,
    now_s: float,
    *,
    device_scale: float = 1.0,
    device_backlog_s: float = 0.0,
    device_power_w: float = 0.0,
    energy_j: float = math.inf,
    sizes: Sizes = (),
) -> OffloadObservation[np.ndarray]:
    """Return one task (K = 1) with O options and N servers, as a policy sees it.

    A server's round trip, its known service times and the wait that does not become shorter are in `option_server_s`; a
    server that may not be asked has no room.

    Args:
        options: what may be chosen, with times of the profiled machine.
        servers: the estimate of each.
        deadline_s: of the request, from now; infinite if it has none.
        now_s: on the clock of these estimates.
        device_scale: device time over the profiled machine's time for the same work.
        device_backlog_s: work that waits on the device's processor.
        device_power_w: of the device while it computes; 0 counts no energy.
        energy_j: limit on the device's energy for this request.
        sizes: of the request; `options` has times and bits for them.
    """
    count, n = len(options.bits), len(servers)
    device_s = options.device_s * device_scale
    works, profiled_s = [Work(piece, sizes) for piece in options.pieces], options.server_s[:, 0].tolist()
    services_s = [services_now_s(server, works, profiled_s, now_s) for server in servers]
    standing_s = np.array([standing_wait_s(server, now_s) for server in servers])
    beside_s = np.array([server.link.round_trip_s for server in servers]) + standing_s
    server_s = np.array(services_s).reshape(n, count).T + beside_s
    return OffloadObservation(
        option_device_s=device_s[None],
        option_upload_bits=options.upload_bits[None],
        option_server_s=server_s[None],
        option_accuracy=options.accuracy[None],
        option_device_j=device_s[None] * device_power_w,
        option_mask=np.ones((1, count), dtype=bool),
        task_mask=np.ones(1, dtype=bool),
        deadline_s=np.array([deadline_s]),
        uplink_bps=np.array([[server.link.rate_bps for server in servers]]).reshape(1, n),
        device_backlog_s=np.array([device_backlog_s]),
        server_backlog_s=np.array([server_wait_s(server, now_s) for server in servers]) - standing_s,
        server_room=np.array([room_now(server, now_s) if usable(server, now_s) else 0.0 for server in servers]),
        energy_left_j=np.array([energy_j]),
        observation_age_s=np.array([now_s - server.reported_s for server in servers]),
        uplink_backlog_s=np.array([[link_wait_s(server, now_s) for server in servers]]).reshape(1, n),
    )


def with_raw_input(
    observation: OffloadObservation[np.ndarray], options: Options, graph: ModelGraph
) -> OffloadObservation[np.ndarray]:
    """Return the observation of a request whose input is no picture: it is sent without loss, at its size in memory.

    Args:
        observation: of the same request with a picture.
        options: the O options of the observation.
        graph: the network of these options.
    """
    raw_bits = sum(graph.tensors[name].size_bits for name in graph.inputs)
    sends_input = np.array([cut == graph.inputs for cut in options.cuts])
    return observation._replace(option_upload_bits=np.where(sends_input, raw_bits, observation.option_upload_bits))


def within_limits(
    observation: OffloadObservation[np.ndarray], servers: Sequence[ServerEstimate]
) -> OffloadObservation[np.ndarray]:
    """Return the observation in which no server ever finishes an upload that is too large for it.

    Args:
        observation: of one task; its upload bits are final.
        servers: the estimate of each, in the order of the observation's server axis.
    """
    if all(server.limit_bits == math.inf for server in servers):
        return observation
    limit_bits = np.array([server.limit_bits for server in servers])
    too_large = observation.option_upload_bits[..., None] >= limit_bits
    return observation._replace(option_server_s=np.where(too_large, math.inf, observation.option_server_s))


def least_latency(
    observation: OffloadObservation[np.ndarray], computes: np.ndarray | None = None
) -> OffloadDecision[np.ndarray]:
    """Return the option [K] and server [K] of least predicted latency for each task, the default policy.

    Args:
        observation: K tasks with O options, N servers.
        computes: [O] as for `physics.latency.offload_ready_s`.
    """
    latency_s = feasible_latency_s(observation, computes)
    tasks, _, servers = latency_s.shape
    flat = latency_s.reshape(tasks, -1)
    best = np.argmin(flat, axis=-1)
    option, server = best // servers, best % servers
    stays = observation.option_upload_bits[np.arange(tasks), option] == 0
    return OffloadDecision(option=option, server=np.where(stays, DEVICE, server))


def feasible_latency_s(observation: OffloadObservation[np.ndarray], computes: np.ndarray | None = None) -> np.ndarray:
    """Return the predicted latency of every choice, [K, O, N + 1]; it is infinite if the choice is not possible.

    A server is not possible if it has no room, or the option sends nothing. The last column is the device itself, which
    is possible only for options that send nothing. No choice of an option that is masked out is possible.

    Args:
        observation: K tasks with O options, N servers.
        computes: [O] as for `physics.latency.offload_ready_s`.
    """
    n = observation.uplink_bps.shape[-1]
    local_s = observation.device_backlog_s[:, None] + observation.option_device_s
    stays = observation.option_upload_bits == 0
    latency_s = np.full((*local_s.shape, n + 1), np.inf)
    latency_s[..., n] = np.where(stays & observation.option_mask, local_s, np.inf)
    if n:
        usable_option = (observation.option_mask & ~stays)[..., None] & (observation.server_room > 0)
        latency_s[..., :n] = np.where(usable_option, offload_latency_s(observation, computes), np.inf)
    return latency_s


def choice_latency_s(
    observation: OffloadObservation[np.ndarray], option: int, server: int, computes: np.ndarray | None = None
) -> float:
    """Return the predicted latency of one choice, `feasible_latency_s(observation)[0, option, server]`, without the
    others.

    Args:
        observation: of one task.
        option: index of the option.
        server: index of the server, or `DEVICE`.
        computes: [O] as for `physics.latency.offload_ready_s`.
    """
    o, bits = observation, float(observation.option_upload_bits[0, option])
    possible = bits == 0 if server == DEVICE else bits > 0 and o.server_room[server] > 0
    if not possible or not o.option_mask[0, option]:
        return math.inf
    waits_s = float(o.device_backlog_s[0]) if computes is None or computes[option] else 0.0
    computed_s = waits_s + float(o.option_device_s[0, option])
    if server == DEVICE:
        return computed_s
    on_air_s = upload_s(bits, o.uplink_bps[0, server])
    arrived_s = latency.ready_s(computed_s, float(o.uplink_backlog_s[0, server]), on_air_s)
    return float(
        latency.end_s(arrived_s, float(o.server_backlog_s[server]), float(o.option_server_s[0, option, server]))
    )


def policy_choice(
    policy: Policy[np.ndarray], observation: OffloadObservation[np.ndarray], computes: np.ndarray | None = None
) -> tuple[int, int, float]:
    """Return the option, server and predicted latency that a policy chooses; infinite for what cannot be done.

    Args:
        policy: may raise what it likes.
        observation: of one task.
        computes: [O] as for `physics.latency.offload_ready_s`.

    Raises:
        ValueError: if the decision is none for one task, or names an option or server that does not exist.
    """
    decision = policy(observation)
    for name in decision._fields:
        value = np.asarray(getattr(decision, name))
        if value.shape != (1,) or value.dtype.kind not in "iu":
            raise ValueError(f"decision.{name} is {value.dtype} {list(value.shape)}, expected whole numbers [1]")
    option, server = int(decision.option[0]), int(decision.server[0])
    options, servers = observation.option_server_s.shape[-2:]
    if not 0 <= option < options:
        raise ValueError(f"decision.option is {option}, expected 0 to {options - 1}")
    if observation.option_upload_bits[0, option] == 0:
        server = DEVICE  # whatever a policy says of the server of what is not sent
    if not DEVICE <= server < servers:
        raise ValueError(f"decision.server is {server}, expected {DEVICE} to {servers - 1}")
    return option, server, choice_latency_s(observation, option, server, computes)

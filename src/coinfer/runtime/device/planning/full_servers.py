"""Servers that are full now: for which of them it is better to wait than to queue on the device."""

from collections.abc import Mapping

import numpy as np

from coinfer.physics.radio import upload_s
from coinfer.runtime.device.forecast import full_servers_s
from coinfer.runtime.device.planning.plan import DeviceState, Plan
from coinfer.types import DEVICE, OffloadObservation

MIN_WAIT_S = 0.01
"""Waits are no shorter, so that many requests that wait take little of the processor."""


def worthwhile_wait(plan: Plan, state: DeviceState, computes: np.ndarray) -> tuple[float, float]:
    """Return how long to wait for a full server before planning anew, and the latency to expect then, in seconds.

    Both are 0 if the plan asks a server, or if the device is sooner with all that waits there. Only options that are as
    accurate as the planned one count.

    Args:
        plan: of a request of which nothing is computed.
        state: what the device believed when it was made.
        computes: [O] as for `physics.latency.offload_ready_s`.
    """
    waits_s = _waits_s(state) if plan.server == DEVICE else {}
    o, option = plan.observation, plan.option
    sends = o.option_mask[0] & (o.option_upload_bits[0] > 0) & (o.option_accuracy[0] >= o.option_accuracy[0, option])
    if not waits_s or not sends.any():
        return 0.0, 0.0
    head_s = np.where(computes, o.device_backlog_s[0], 0.0) + o.option_device_s[0]
    expected_s = {
        server: wait_s + float(np.min((head_s + _sent_s(o, server))[sends])) for server, wait_s in waits_s.items()
    }
    best = min(expected_s, key=lambda server: expected_s[server])
    if expected_s[best] >= plan.predicted_s:
        return 0.0, 0.0
    return waits_s[best], expected_s[best]


def worthwhile_server(
    plan: Plan, observation: OffloadObservation[np.ndarray], state: DeviceState, on_device_s: float
) -> tuple[int, float]:
    """Return the full server to wait for once the head is computed, and for how many seconds.

    Args:
        plan: of the request; its cut is computed.
        observation: of the same request now.
        state: what the device believes now.
        on_device_s: time until the device itself would have computed the rest.

    Returns:
        The server's index, or `DEVICE` if the device would be sooner.
    """
    waits_s = _waits_s(state)
    expected_s: Mapping[int, float] = {
        server: wait_s + float(_sent_s(observation, server)[plan.option]) for server, wait_s in waits_s.items()
    }
    best = min(expected_s, key=lambda server: expected_s[server], default=DEVICE)
    if best == DEVICE or expected_s[best] >= on_device_s:
        return DEVICE, 0.0
    return best, waits_s[best]


def _waits_s(state: DeviceState) -> dict[int, float]:
    """Return how long one would wait for each server that is full."""
    return {server: max(wait_s, MIN_WAIT_S) for server, wait_s in full_servers_s(state.servers, state.now_s).items()}


def _sent_s(observation: OffloadObservation[np.ndarray], server: int) -> np.ndarray:
    """Return the time of upload and service of each option, [O]."""
    return (
        upload_s(observation.option_upload_bits[0], observation.uplink_bps[0, server])
        + observation.option_server_s[0, :, server]
    )

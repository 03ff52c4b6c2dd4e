"""The predicted latency of a task behind queues, which links and servers serve first come, first served.

This is the only place of this rule. The runtime's planner, the policies and the simulator use it, with NumPy arrays or
tensors that broadcast against each other; all times are in seconds from now.
"""

from typing import Any, cast

import numpy as np

from coinfer.physics.radio import upload_s
from coinfer.types import A, OffloadObservation, V


def ready_s(computed_s: V, uplink_free_s: V, upload_s: V) -> V:
    """Return when a task arrives at its server.

    The upload begins when the device has computed its part and the link has carried what was sent before.

    Args:
        computed_s: when the device has computed its part.
        uplink_free_s: when the link has carried everything that was sent before.
        upload_s: time on air of this task.
    """
    return _maximum(computed_s, uplink_free_s) + upload_s


def start_s(ready_s: V, free_s: V) -> V:
    """Return when a server begins with a task: after the task has arrived and all earlier work is done.

    Args:
        ready_s: when the task arrives at the server.
        free_s: when the server has done all earlier work.
    """
    return _maximum(ready_s, free_s)


def end_s(ready_s: V, free_s: V, service_s: V) -> V:
    """Return when a server has finished a task.

    Args:
        ready_s: when the task arrives at the server.
        free_s: when the server has done all earlier work.
        service_s: time that the server takes for the task.
    """
    return start_s(ready_s, free_s) + service_s


def offload_ready_s(observation: OffloadObservation[A], computes: A | None = None) -> A:
    """Return when each option arrives at each server, [.., K, O, N].

    If an option uploads nothing, all its N entries are the time at which the device has finished it. On a dead link an
    upload never arrives: the entry is infinite.

    Args:
        observation: of one world or with leading batch axes.
        computes: bool [.., K, O], false for options that do not wait for the device's processor, as nothing of the
            network is computed there. None if all wait, as in the simulator, where a device also encodes in turn.
    """
    o = observation
    waits_s = o.device_backlog_s[..., None]
    if computes is not None:
        waits_s = _where(computes, waits_s, 0.0 * waits_s)
    computed_s = (waits_s + o.option_device_s)[..., None]
    sends = (o.option_upload_bits > 0)[..., None]
    on_air_s = upload_s(o.option_upload_bits[..., None], o.uplink_bps[..., None, :])
    return _where(sends, ready_s(computed_s, o.uplink_backlog_s[..., None, :], on_air_s), computed_s)


def offload_latency_s(observation: OffloadObservation[A], computes: A | None = None) -> A:
    """Return the predicted latency of every option on every server, [.., K, O, N], as if each task were alone.

    That is ready = max(device, link free) + upload, start = max(ready, server free), end = start + service, the sum of
    the inference, transmission and queueing times of CDO-DSAC (SEKE 2023). If an option uploads nothing, the server
    plays no part, and all its N entries are the time on the device.

    Args:
        observation: of one world or with leading batch axes.
        computes: as for `offload_ready_s`.
    """
    o = observation
    at_server_s = offload_ready_s(o, computes)
    served_s = end_s(at_server_s, o.server_backlog_s[..., None, None, :], o.option_server_s)
    return _where((o.option_upload_bits > 0)[..., None], served_s, at_server_s)


def _maximum(one: V, other: V) -> V:
    """Return the larger of tensors, NumPy arrays or plain numbers, element by element."""
    first, second = cast(Any, one), cast(Any, other)
    return first.maximum(second) if hasattr(first, "maximum") else np.maximum(first, second)


def _where(condition: A, one: A, other: A) -> A:
    """Return `one` if the condition holds, else `other`, element by element."""
    mask, first, second = cast(Any, condition), cast(Any, one), cast(Any, other)
    return first.where(mask, second) if hasattr(first, "where") else cast(A, np.where(mask, first, second))

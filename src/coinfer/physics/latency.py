"""The predicted latency of a task behind queues: first come, first served, on the link and on the server.

The one home of this rule. The runtime's planner, the policies and the simulator use it, with NumPy arrays or tensors
that broadcast against each other; all times are in seconds from now.
"""

from typing import Any, cast

import numpy as np

from coinfer.physics.radio import upload_s
from coinfer.types import A, OffloadObservation, V


def ready_s(computed_s: V, uplink_free_s: V, upload_s: V) -> V:
    """Return when a task has reached its server.

    The upload begins when the device has computed its part and the link has carried what was sent before.
    """
    return _maximum(computed_s, uplink_free_s) + upload_s


def start_s(ready_s: V, free_s: V) -> V:
    """Return when a server begins with a task: when the task is there and all that came before it is done."""
    return _maximum(ready_s, free_s)


def end_s(ready_s: V, free_s: V, service_s: V) -> V:
    """Return when a server has served a task that is `ready_s` and takes `service_s`."""
    return start_s(ready_s, free_s) + service_s


def offload_ready_s(observation: OffloadObservation[A]) -> A:
    """Return when each option has reached each server, [.., K, O, N].

    If an option uploads nothing, all its N entries are the time at which the device is done with it.
    """
    o = observation
    computed_s = (o.device_backlog_s[..., None] + o.option_device_s)[..., None]
    sends = (o.option_upload_bits > 0)[..., None]
    on_air_s = upload_s(o.option_upload_bits[..., None], o.uplink_bps[..., None, :])
    return _where(sends, ready_s(computed_s, o.uplink_backlog_s[..., None, :], on_air_s), computed_s)


def offload_latency_s(observation: OffloadObservation[A]) -> A:
    """Return the predicted latency of every option on every server, [.., K, O, N], as if each task were alone.

    That is ready = max(device, link free) + upload, start = max(ready, server free), end = start + service, the sum of
    the inference, transmission and queueing times of CDO-DSAC (SEKE 2023). If an option uploads nothing, the server
    plays no part, and all its N entries are the time on the device.
    """
    o = observation
    there_s = offload_ready_s(o)
    served_s = end_s(there_s, o.server_backlog_s[..., None, None, :], o.option_server_s)
    return _where((o.option_upload_bits > 0)[..., None], served_s, there_s)


def _maximum(one: V, other: V) -> V:
    """Return the larger of tensors, NumPy arrays or plain numbers, element by element."""
    first, second = cast(Any, one), cast(Any, other)
    return first.maximum(second) if hasattr(first, "maximum") else np.maximum(first, second)


def _where(condition: A, one: A, other: A) -> A:
    """Return `one` where the condition holds, else `other`, for tensors and NumPy arrays."""
    mask, first, second = cast(Any, condition), cast(Any, one), cast(Any, other)
    return first.where(mask, second) if hasattr(first, "where") else cast(A, np.where(mask, first, second))

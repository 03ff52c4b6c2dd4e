"""What a decision costs, and the papers' rewards. NumPy arrays and tensors may come in."""

import math

from coinfer.physics.radio import log2
from coinfer.types import Array, OffloadObservation, Outcome


def offload_latency_s(observation: OffloadObservation) -> Array:
    """Predicted latency of every option on every server, [.., K, O, N], were it the only task decided now.

    Backlog of the device, computing and encoding there, backlog of its uplink, upload, backlog of the server, computing
    there (CDO-DSAC, SEKE 2023: the sum of inference, transmission and queueing times). Where an option uploads nothing
    the server plays no part, and all its N entries are the time on the device.
    """
    upload_bits = observation.option_upload_bits[..., None]
    computed_s = (observation.device_backlog_s[..., None] + observation.option_device_s)[..., None]
    radio_first_s = observation.uplink_backlog_s - observation.device_backlog_s
    radio_wait_s = (radio_first_s[..., None] - observation.option_device_s).clip(0)[..., None]
    on_server_s = (
        radio_wait_s
        + upload_bits / observation.uplink_bps[..., None, :]
        + observation.server_backlog_s[..., None, None, :]
        + observation.option_server_s
    )
    return computed_s + (upload_bits > 0) * on_server_s


def outcome_of(
    *,
    device_s: Array,
    upload_s: Array,
    queue_s: Array,
    server_s: Array,
    download_s: Array,
    energy_j: Array,
    accuracy: Array,
    admitted: Array,
    answered: Array,
    deadline_s: Array,
) -> Outcome:
    """The outcome of requests: its latency is the sum of the times (CDO-DSAC, SEKE 2023: T_j), and it is in time where
    it was `answered` at all and not after `deadline_s`."""
    latency_s = device_s + upload_s + queue_s + server_s + download_s
    return Outcome(
        device_s=device_s,
        upload_s=upload_s,
        queue_s=queue_s,
        server_s=server_s,
        download_s=download_s,
        latency_s=latency_s,
        energy_j=energy_j,
        accuracy=accuracy,
        admitted=admitted,
        in_time=answered & (latency_s <= deadline_s),
    )


def latency_reward(latency_s: Array) -> Array:
    """-T of each task (CDO-DSAC, SEKE 2023: R = -sum of T_j)."""
    return -latency_s


def late_reward(latency_s: Array, deadline_s: Array, weight: float = 1.0) -> Array:
    """-(L + beta max(L - tau, 0)) of each task (multi-task A3C, IEEE TMC 2024: the reward; beta is not given).

    The paper limits every block by tau; here the whole task is limited."""
    return -(latency_s + weight * (latency_s - deadline_s).clip(0))


def weighted_reward(
    accuracy: Array, latency_s: Array, rate_bps: Array, best_bps: float, sensitivity: float, scale_s: float
) -> Array:
    """lambda A - (1 - lambda) T of each task, with a weight that grows with the rate: lambda = ln(1 + w B) / ln(1 + w
    B_max) (SAC-d, WCNC 2022, equations 12 and 13; the paper's text lacks the symbols, the form is our reading).

    Args:
        accuracy: 0 to 1.
        latency_s: divided by `scale_s`, as the paper standardises both.
        rate_bps: of the link, at most `best_bps`.
        best_bps: rate at which only accuracy counts.
        sensitivity: w B_max, without unit.
        scale_s: latency that weighs as much as full accuracy.
    """
    weight = log2(1.0 + sensitivity * (rate_bps / best_bps)) / math.log2(1.0 + sensitivity)
    return weight * accuracy - (1.0 - weight) * (latency_s / scale_s)


def early_exit_reward(
    accuracy: Array, latency_s: Array, deadline_s: Array, in_time: Array, latency_weight: float, late_penalty: float
) -> Array:
    """phi (1 - eta T / delta) of a task in time, -psi of a late one (GRLE, arXiv 2210.13464; only the abstract is
    public, the form is our reading)."""
    return in_time * accuracy * (1.0 - latency_weight * latency_s / deadline_s) - ~in_time * late_penalty

"""Who decides: the planner, and what a user would otherwise do. All are policies over the same observation."""

from collections.abc import Sequence

import numpy as np

from coinfer.profile.options import Options
from coinfer.runtime.planner import least_latency
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation, Policy

PLANNER = "planner"


def schemes(
    options: Options, inputs: tuple[str, ...], observation: OffloadObservation, mean_bps: Sequence[float]
) -> dict[str, Policy]:
    """The planner and its rivals by name, planner first.

    Args:
        observation: of unloaded servers, from which the best fixed cut is chosen.
        mean_bps: of each server's link over the whole trace.
    """
    return {
        PLANNER: least_latency,
        "device only": device_only(options),
        "server only": server_only(options, inputs),
        "fixed best cut": fixed_best(observation, mean_bps),
    }


def device_only(options: Options) -> Policy:
    """Sends nothing."""
    last = len(options.bits) - 1
    return lambda _: OffloadDecision(np.array([last]), np.array([DEVICE]))


def server_only(options: Options, inputs: tuple[str, ...]) -> Policy:
    """Sends the network's input to the server that is predicted to answer first."""
    sends_input = np.array([cut == inputs for cut in options.cuts])
    return lambda observation: least_latency(observation._replace(option_mask=sends_input[None]))


def fixed_best(observation: OffloadObservation, mean_bps: Sequence[float]) -> Policy:
    """Always what is best at the links' mean rates with idle servers: a cut, bits and a server, or the device alone."""
    n = len(mean_bps)
    calm = observation._replace(
        uplink_bps=np.array([mean_bps]), server_backlog_s=np.zeros(n), server_room=np.full(n, np.inf)
    )
    best = least_latency(calm)
    return lambda _: best

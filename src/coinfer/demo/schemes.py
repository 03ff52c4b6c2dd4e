"""Who decides: the planner, and what a user would otherwise do. All are policies over the same observation."""

from collections.abc import Sequence

import numpy as np

from coinfer.options.table import Options
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.planner import least_latency
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation, Policy

PLANNER = "planner"
TRAINED_POLICY = "policy"
ADAPTIVE = (PLANNER, TRAINED_POLICY)
"""They hedge, and leave at exits that are sure where that is wished."""


def schemes(device: Device, observation: OffloadObservation, mean_bps: Sequence[float]) -> dict[str, Policy]:
    """Those that adapt, then their rivals, by name. Without exits or a wish the planner seeks the least latency.

    Args:
        observation: of unloaded servers, from which the best fixed cut is chosen.
        mean_bps: of each server's link over the whole trace.
    """
    trained = {} if device.policy is device.planner else {TRAINED_POLICY: device.policy}
    return {
        **trained,
        PLANNER: device.planner,
        "device only": device_only(device.options),
        "server only": server_only(device.options, device.graph.inputs),
        "fixed best cut": fixed_best(observation, mean_bps, device.planner),
    }


def device_only(options: Options) -> Policy:
    """Sends nothing; of several exits the last answers."""
    last = len(options.bits) - 1
    return lambda _: OffloadDecision(np.array([last]), np.array([DEVICE]))


def server_only(options: Options, inputs: tuple[str, ...]) -> Policy:
    """Sends the network's input, for the last exit, to the server that is predicted to answer first."""
    sends = [i for i, cut in enumerate(options.cuts) if cut == inputs]
    sends_input = np.isin(np.arange(len(options.cuts)), sends[-1:])
    return lambda observation: least_latency(observation._replace(option_mask=sends_input[None]))


def fixed_best(observation: OffloadObservation, mean_bps: Sequence[float], planner: Policy = least_latency) -> Policy:
    """Always what is best at the links' mean rates with idle servers: exit, cut, bits and a server, or the device."""
    n = len(mean_bps)
    calm = observation._replace(
        uplink_bps=np.array([mean_bps]), server_backlog_s=np.zeros(n), server_room=np.full(n, np.inf)
    )
    best = planner(calm)
    return lambda _: best

"""Who decides: the planner, and what a user would otherwise do. All are policies over the same observation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from coinfer.options.table import Options
from coinfer.runtime.device.planning.objective_policy import policy_for
from coinfer.runtime.device.planning.observation import least_latency
from coinfer.runtime.device.planning.planner import Planner
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation, Policy

PLANNER = "planner"
TRAINED_POLICY = "policy"


class Scheme(NamedTuple):
    """A policy and how the device carries out its decisions."""

    policy: Policy
    is_adaptive: bool
    """True if the device hedges, and answers at early exits if that is configured."""


def schemes(planner: Planner, observation: OffloadObservation, mean_bps: Sequence[float]) -> dict[str, Scheme]:
    """Return those that adapt, then their rivals, by name. Without exits or limits the planner seeks least latency.

    Args:
        observation: of unloaded servers and without early exits, from which the best fixed cut is chosen.
        mean_bps: of each server's link over the whole trace.
    """
    own = planner.objective_policy
    trained = {} if planner.policy is own else {TRAINED_POLICY: Scheme(planner.policy, True)}
    return {
        **trained,
        PLANNER: Scheme(own, True),
        "device only": Scheme(device_only(planner.options), False),
        "server only": Scheme(server_only(planner.options, planner.graph.inputs), False),
        "fixed best cut": Scheme(fixed_best(observation, mean_bps, policy_for(planner.objective)), False),
    }


def device_only(options: Options) -> Policy:
    """Return a policy that sends nothing; of several exits the last answers."""
    last = len(options.bits) - 1
    return lambda _: OffloadDecision(np.array([last]), np.array([DEVICE]))


def server_only(options: Options, inputs: tuple[str, ...]) -> Policy:
    """Return a policy that sends the network's input, for the last exit, to the server that is predicted to answer
    first."""
    sends = [i for i, cut in enumerate(options.cuts) if cut == inputs]
    sends_input = np.isin(np.arange(len(options.cuts)), sends[-1:])
    return lambda observation: least_latency(observation._replace(option_mask=sends_input[None]))


def fixed_best(observation: OffloadObservation, mean_bps: Sequence[float], planner: Policy = least_latency) -> Policy:
    """Return a policy that always takes what is best at the links' mean rates with idle servers: exit, cut, bits and a
    server, or the device."""
    n = len(mean_bps)
    calm = observation._replace(
        uplink_bps=np.array([mean_bps]),
        uplink_backlog_s=np.zeros((1, n)),
        server_backlog_s=np.zeros(n),
        server_room=np.full(n, np.inf),
    )
    best = planner(calm)
    return lambda _: best

"""The schemes: the planner, and what a user would do without it. All are policies over the same observation."""

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
SERVER_ONLY = "server only"


class Scheme(NamedTuple):
    """A policy, and how the device carries out its decisions."""

    policy: Policy
    is_adaptive: bool
    """True if the device hedges, and may answer at early exits."""


def schemes(planner: Planner, observation: OffloadObservation, mean_bps: Sequence[float]) -> dict[str, Scheme]:
    """Return the compared schemes by name, first those that adapt.

    Server only is left out if the planner has no option that sends the input, as that is never the best one.

    Args:
        planner: of the device; without exits or limits it seeks least latency.
        observation: of idle servers and without early exits, from which the best fixed cut is chosen.
        mean_bps: of each server's link over the whole trace.
    """
    own, inputs = planner.objective_policy, planner.graph.inputs
    only = server_only(planner.options, inputs)
    trained = {} if planner.policy is own else {TRAINED_POLICY: Scheme(planner.policy, True)}
    return {
        **trained,
        PLANNER: Scheme(own, True),
        "device only": Scheme(device_only(planner.options), False),
        **({SERVER_ONLY: Scheme(only, False)} if inputs in planner.options.cuts else {}),
        "fixed best cut": Scheme(fixed_best(observation, mean_bps, policy_for(planner.objective)), False),
    }


def device_only(options: Options) -> Policy:
    """Return a policy that sends nothing; of several exits the last answers.

    Args:
        options: what it chooses from; the last one stays on the device.
    """
    last = len(options.bits) - 1
    return lambda _: OffloadDecision(np.array([last]), np.array([DEVICE]))


def server_only(options: Options, inputs: tuple[str, ...]) -> Policy:
    """Return a policy that sends the network's input to the server that is predicted to answer first.

    Args:
        options: what it chooses from; of those that send the input, the last one (of the last exit) is taken.
        inputs: names of the network's inputs.
    """
    sends = [i for i, cut in enumerate(options.cuts) if cut == inputs]
    sends_input = np.isin(np.arange(len(options.cuts)), sends[-1:])
    return lambda observation: least_latency(observation._replace(option_mask=sends_input[None]))


def fixed_best(observation: OffloadObservation, mean_bps: Sequence[float], planner: Policy = least_latency) -> Policy:
    """Return a policy that always takes the same exit, cut, bits and node.

    They are the best at the links' mean rates with idle servers.

    Args:
        observation: of any one request without early exits.
        mean_bps: of each server's link over the whole trace.
        planner: chooses at these rates.
    """
    n = len(mean_bps)
    calm = observation._replace(
        uplink_bps=np.array([mean_bps]),
        uplink_backlog_s=np.zeros((1, n)),
        server_backlog_s=np.zeros(n),
        server_room=np.full(n, np.inf),
    )
    best = planner(calm)
    return lambda _: best

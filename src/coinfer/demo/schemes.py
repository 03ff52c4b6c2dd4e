"""The schemes: the planner, and what a user would do without it. All are policies over the same observation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from coinfer.options.table import Options
from coinfer.runtime.device.planning.objective_policy import policy_for
from coinfer.runtime.device.planning.observation import feasible_latency_s, least_latency
from coinfer.runtime.device.planning.planner import Planner
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation, Policy

PLANNER = "planner"
TRAINED_POLICY = "policy"
DEVICE_ONLY, SERVER_ONLY, FIXED_CUT = "device only", "server only", "fixed best cut"
HINDSIGHT = "best fixed choice"


class Scheme(NamedTuple):
    """A policy, and how a device carries out its decisions."""

    policy: Policy | None
    """None leaves it to the device, whose own policy places blocks."""
    options: Options
    """What the policy chooses from."""
    servers: tuple[str, ...]
    """Addresses that it may ask."""
    hedges: bool
    """Whether the device starts on the rest itself if a server is late."""
    exits_early: bool
    """Whether answers that are sure may leave early."""


class FixedChoice(NamedTuple):
    """An option of the planner and a server, or `DEVICE`."""

    option: int
    server: int
    exits_early: bool = False


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


def fixed_best(observation: OffloadObservation[np.ndarray], policy: Policy = least_latency) -> FixedChoice:
    """Return the exit, cut, bits and node that are best at some state of links and servers.

    Args:
        observation: of one request without early exits.
        policy: chooses.
    """
    decision = policy(observation)
    return FixedChoice(int(decision.option[0]), int(decision.server[0]))


def at_state(
    observation: OffloadObservation[np.ndarray],
    rates_bps: Sequence[float],
    backlog_s: float = 0.0,
    dead: Sequence[int] = (),
) -> OffloadObservation[np.ndarray]:
    """Return an observation with given links and loads.

    Args:
        observation: of one request.
        rates_bps: [N] rate of each link.
        backlog_s: work that waits on every server.
        dead: indices of the servers that do not answer.
    """
    n = len(rates_bps)
    return observation._replace(
        uplink_bps=np.array([rates_bps], dtype=float),
        uplink_backlog_s=np.zeros((1, n)),
        server_backlog_s=np.full(n, backlog_s),
        server_room=np.where(np.isin(np.arange(n), dead), 0.0, np.inf),
        device_backlog_s=np.zeros(1),
    )


def best_in_hindsight(
    planner: Planner,
    states: Sequence[OffloadObservation[np.ndarray]],
    states_with_exits: Sequence[OffloadObservation[np.ndarray]],
) -> FixedChoice:
    """Return the fixed choice of least mean latency over all that will happen, accurate enough for the objective.

    A choice whose server is dead counts with the time of the device, which then takes no exits.

    Args:
        planner: of the device.
        states: observations of a request without early exits, as many for each phase.
        states_with_exits: of the mean request that may exit early, likewise; the same if there are no exits.
    """
    found = []
    alone_s = np.stack([feasible_latency_s(one, planner.computes)[0, -1:, -1:] for one in states])
    for exits_early, seen in ((False, states), (True, states_with_exits)):
        latency_s = np.stack([feasible_latency_s(one, planner.computes)[0] for one in seen])
        ever = np.isfinite(latency_s).any(axis=0)
        mean_s = np.where(ever, np.where(np.isfinite(latency_s), latency_s, alone_s).mean(axis=0), np.inf)
        enough = seen[0].option_accuracy[0] >= planner.objective.min_accuracy
        mean_s = np.where(enough[:, None], mean_s, np.inf)
        option, place = np.unravel_index(int(mean_s.argmin()), mean_s.shape)
        server = int(place) if place < mean_s.shape[1] - 1 else DEVICE
        found.append((float(mean_s.min()), FixedChoice(int(option), server, exits_early)))
    return min(found, key=lambda one: one[0])[1]


def schemes(planner: Planner, cut: FixedChoice, hindsight: FixedChoice) -> dict[str, Scheme]:
    """Return the compared schemes by name, first those that adapt.

    Server only is left out if the planner has no option that sends the input, as that is never the best one.

    Args:
        planner: of the device; without exits or limits it seeks least latency.
        cut: fixed choice for idle servers and the links' mean rates.
        hindsight: best fixed choice for all that will happen.
    """
    options, inputs, servers = planner.at(()).plain, planner.graph.inputs, tuple(planner.servers)
    own = planner.objective_policy
    compared = {PLANNER: Scheme(own, options, servers, True, True)}
    if planner.policy is not own or planner.blocks is not None:
        trained = None if planner.blocks is not None else planner.policy
        compared = {TRAINED_POLICY: Scheme(trained, options, servers, True, True)} | compared
    last = len(options.bits) - 1
    compared[DEVICE_ONLY] = _fixed(planner, FixedChoice(last, DEVICE))
    sends = [i for i, names in enumerate(options.cuts) if names == inputs]
    if sends:
        some = options.take(np.array([sends[-1], last]))
        compared[SERVER_ONLY] = Scheme(server_only(some, inputs), some, servers, False, False)
    compared[FIXED_CUT] = _fixed(planner, cut)
    compared[HINDSIGHT] = _fixed(planner, hindsight)
    return compared


def _fixed(planner: Planner, choice: FixedChoice) -> Scheme:
    """Return the scheme of a fixed choice, which knows no other option than its own and the whole on the device."""
    options = planner.at(()).plain
    some = options.take(np.unique([choice.option, len(options.bits) - 1]))
    servers = () if choice.server == DEVICE else (planner.servers[choice.server],)
    decision = OffloadDecision(np.array([0]), np.array([DEVICE if choice.server == DEVICE else 0]))
    return Scheme(lambda _: decision, some, servers, False, choice.exits_early)


def policy_without_exits(planner: Planner) -> Policy:
    """Return the planner's policy for requests that take no early exit.

    Args:
        planner: of the device.
    """
    return policy_for(planner.objective, computes=planner.computes)

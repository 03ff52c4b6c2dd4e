"""What becomes of a request after a server failed or is late: another server, or what the device can still do."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from coinfer.options.table import Names
from coinfer.runtime.device.planning.early_exit import ExitStats
from coinfer.runtime.device.planning.objective_policy import policy_for
from coinfer.runtime.device.planning.observation import policy_choice
from coinfer.runtime.device.planning.plan import DeviceState, Plan
from coinfer.runtime.device.planning.planner import Planner
from coinfer.types import DEVICE, OffloadObservation

SEND, FINISH = 0, 1
"""Rows of the choice: send what crosses the cut to another server; finish the plan on the device, from the cut."""


class Remaining(NamedTuple):
    """The best thing to do now."""

    server: int
    """Index of the server to ask for the rest, or `DEVICE`."""
    predicted_s: float
    """Time from now to the answer."""
    exit: int
    """Index of the exit to which the device computes."""
    outputs: Names
    """Outputs of that exit."""
    from_inputs: bool
    """True if the device begins at the network's inputs, so that earlier exits may answer."""


def remaining(
    planner: Planner, plan: Plan, state: DeviceState, left_s: float, excluded: Collection[int] | None = None
) -> Remaining:
    """Return what is best for a request of which the part before the cut is computed, by the request's objective.

    The choices are the other servers for the same cut and bits, the rest on the device, and all that the device can do
    from the inputs.

    Args:
        planner: of the device.
        plan: of the request.
        state: what the device believes now.
        left_s: time to the deadline.
        excluded: indices of the servers that were asked in vain; None excludes all servers.
    """
    options, exits_early = planner.options, plan.early_exit
    observation = planner.observe(
        state,
        left_s,
        raw_input=plan.raw_input,
        early_exit=exits_early,
        sizes=plan.sizes,
        energy_j=plan.objective.energy_j,
    )
    here = np.flatnonzero(options.is_local & plan.observation.option_mask[0])
    rows = np.array([plan.option, plan.option, *here])
    stats = planner.stats
    shares = (np.concatenate([[1.0, 1.0], share[here]]) for share in (stats.continue_share, stats.device_share))
    seen = _behind_head(planner, observation, rows, plan, state, excluded)
    mean = ExitStats(*shares, accuracy=stats.accuracy[rows]).mean_observation if exits_early else None
    row, server, predicted_s = policy_choice(policy_for(plan.objective, mean), seen)
    if row in (SEND, FINISH):
        return Remaining(server, predicted_s, plan.route.exit, plan.outputs, plan.cut == planner.graph.inputs)
    option = int(rows[row])
    return Remaining(DEVICE, predicted_s, int(options.exit[option]), options.outputs[option], True)


def _behind_head(
    planner: Planner,
    observation: OffloadObservation[np.ndarray],
    rows: np.ndarray,
    plan: Plan,
    state: DeviceState,
    excluded: Collection[int] | None,
) -> OffloadObservation[np.ndarray]:
    """Return the observation of these choices; only the device's own work waits for what waits on its processor."""
    tail_s = plan.tail_s * state.scale
    device_s, device_j = observation.option_device_s[:, rows] + state.backlog_s, observation.option_device_j[:, rows]
    upload_bits, accuracy = observation.option_upload_bits[:, rows], observation.option_accuracy[:, rows]
    device_s[0, SEND], device_s[0, FINISH] = 0.0, state.backlog_s + tail_s
    device_j[0, SEND], device_j[0, FINISH] = 0.0, tail_s * planner.objective.power_w
    upload_bits[0, FINISH] = 0.0
    accuracy[0, FINISH] = planner.expected_accuracy(plan.route, plan.route.exit, on_device=True)
    room = observation.server_room.copy()
    room[sorted(range(len(room)) if excluded is None else excluded)] = 0
    return observation._replace(
        option_device_s=device_s,
        option_device_j=device_j,
        option_upload_bits=upload_bits,
        option_server_s=observation.option_server_s[:, rows],
        option_accuracy=accuracy,
        option_mask=np.ones((1, len(rows)), dtype=bool),
        device_backlog_s=np.zeros(1),
        server_room=room,
    )

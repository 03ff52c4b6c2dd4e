"""The contract between planner, simulator and runtime.

Index letters: B worlds, K concurrent tasks, O options of a task, N edge servers. Fields are arrays of
any library in SI units, never normalised, with free leading batch axes (written `..`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

Array = Any


DEVICE = -1
"""`OffloadDecision.server` of a task that stays on its device."""


class OffloadObservation(NamedTuple):
    """What a policy sees. An option is an (exit, cut, bits) triple that survived pruning."""

    option_device_s: Array
    """[.., K, O] time on the task's device, encoding included."""
    option_upload_bits: Array
    """[.., K, O] bits sent; 0 where nothing leaves the device."""
    option_server_s: Array
    """[.., K, O, N] time on server n, decoding included."""
    option_accuracy: Array
    """[.., K, O] expected accuracy, 0 to 1; 1 where no accuracy table is at hand (relative to the whole network)."""
    option_device_j: Array
    """[.., K, O] energy of the device, computing only."""
    option_mask: Array
    """[.., K, O] true where the option exists."""
    task_mask: Array
    """[.., K] true where there is a task."""
    deadline_s: Array
    """[.., K] time from the request to its deadline; infinite where there is none."""
    uplink_bps: Array
    """[.., K, N] link rate from the task's device to server n, bits per second."""
    device_backlog_s: Array
    """[.., K] work that waits on the task's device."""
    server_backlog_s: Array
    """[.., N] work that waits on server n."""
    server_room: Array
    """[.., N] tasks that server n would still admit."""
    energy_left_j: Array
    """[.., K] energy that the task may spend; infinite where there is no limit."""
    observation_age_s: Array
    """[.., N] how old the knowledge of server n is."""
    uplink_backlog_s: Array
    """[.., K, N] until the task's device can begin to send to server n, for the uploads that wait. The same for all N
    if the device has one radio."""


class OffloadDecision(NamedTuple):
    option: Array
    """[.., K] index into the options."""
    server: Array
    """[.., K] index of the server, or `DEVICE`."""


class BlocksObservation(NamedTuple):
    """What a policy sees that places every block of a network by itself (multi-task A3C, IEEE TMC 2024). M blocks."""

    block_device_s: Array
    """[.., K, M] time on the task's device; 0 past the network's last block."""
    block_server_s: Array
    """[.., K, M, N] time on server n; 0 past the network's last block."""
    block_input_bits: Array
    """[.., K, M] what the block takes in; the first block's input lies on the device."""
    block_device_j: Array
    """[.., K, M] energy of the device for the block."""
    block_mask: Array
    """[.., K, M] true where the network has a block."""
    task_mask: Array
    """[.., K] true where there is a task."""
    deadline_s: Array
    """[.., K] time from the request to its deadline; infinite where there is none."""
    uplink_bps: Array
    """[.., K, N] link rate between the task's device and server n, either way, bits per second."""
    backhaul_bps: Array
    """[.., 1] rate between two servers."""
    device_backlog_s: Array
    """[.., K] work that waits on the task's device."""
    server_backlog_s: Array
    """[.., N] work that waits on server n."""
    server_room: Array
    """[.., N] tasks that server n would still admit: infinite, or 0 while it is out."""
    energy_left_j: Array
    """[.., K] energy that the task may spend; infinite where there is no limit."""
    observation_age_s: Array
    """[.., N] how old the knowledge of server n is."""
    uplink_backlog_s: Array
    """[.., K] until the radio of the task's device is done with the uploads that wait."""


class BlocksDecision(NamedTuple):
    place: Array
    """[.., K, M] 0 is the task's own device, n is server n - 1 of the observation's axis; what it says past the
    network's last block does not matter."""


class Outcome(NamedTuple):
    """What a request cost. All [.., K]; `latency_s` is the sum of the other times."""

    device_s: Array
    """On the device, waiting there and encoding included."""
    upload_s: Array
    """Sending, waiting for the uplink included."""
    queue_s: Array
    """Waiting on the server; for a request that is given up, until its deadline."""
    server_s: Array
    """Computing on the server(s), decoding and encoding included, and transfers between servers."""
    download_s: Array
    latency_s: Array
    energy_j: Array
    accuracy: Array
    admitted: Array
    """False where every server refused it and the device answered."""
    in_time: Array


class Hop(NamedTuple):
    """One leg of a route: `node` runs the network until the tensors `cut` exist, then sends them on."""

    node: str
    """`"device"` or the `host:port` of an edge server."""
    cut: tuple[str, ...]
    """Names of the tensors that leave this hop: a cut of the graph, or its outputs on the last hop."""
    bits: int
    """Bits per element with which these tensors are sent: 32, 16, 12, 8 or 4; for the network's input 8 means the
    image's own bytes."""


class Route(NamedTuple):
    """What the runtime executes."""

    hops: tuple[Hop, ...]
    exit: int
    """Index of the exit that answers; 0 is the first, and the only one of a plain network."""
    deadline_s: float


Policy = Callable[[OffloadObservation], OffloadDecision]
"""Any callable from an observation to a decision."""

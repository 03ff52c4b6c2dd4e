"""The compiled scenario: dense tables, and the parameters of its processes. An environment needs nothing else.

Letters, beside those of `types`: G placements of the devices, C device classes, X networks (models), A states of the
arrivals, R rows and L slots of a bank, Q equally likely values.

A **bank** [R, L] holds R sample paths of a process with one value for each slot: fading, a measured trace, outages, a
walk, whatever the scenario names. Each link and each server draws a row and a first slot once an episode (if L allows,
the first slot leaves room for the whole episode; otherwise the row is read in a circle). So the environment knows
nothing about the process, and any process costs one look-up. A process that does not vary is a bank [[1.0]].

A **quantile table** [Q] holds equally likely values; [1.0] switches it off.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from coinfer.errors import UserError
from coinfer.scenario.serving import Serving


class WorldError(UserError):
    """A compiled scenario whose arrays do not fit together; the message is one line for a person."""


class Edge(NamedTuple):
    """Everything but the decision space: who asks, over which link, and which servers answer."""

    slots: int
    """Slots of an episode."""
    slot_s: float
    """Length of a slot. The tasks of a slot are decided on, and start to be served, when it begins."""
    tasks: int
    """K, the largest number of tasks in a slot; more do not arrive (`arrival_cdf` ends at it)."""
    distinct_devices: bool
    """Whether the tasks of a slot come from different devices (needs K <= U); else each is drawn by itself."""
    device_class: np.ndarray
    """[U] int, class of each device."""
    model_cdf: np.ndarray
    """[X] cumulative shares of the networks among the tasks; the last is 1."""
    arrival_cdf: np.ndarray
    """[A, K] probability of at most 0, 1, .. K - 1 tasks in a slot, by state of the arrivals. All zero: always K."""
    arrival_state: np.ndarray
    """[R, L] int bank, one row for a world: the state of the arrivals in each slot; [[0]] if they do not vary."""
    deadline_s: np.ndarray
    """[X, C, 2] least and greatest deadline, drawn uniformly between them; infinite for none."""
    device_factor: np.ndarray
    """[Q] quantile table: true time on the device over the expected one, drawn for each task and not observed."""
    server_factor: np.ndarray
    """[Q] quantile table: the same for the time on the server."""
    mean_link: np.ndarray
    """[G, U, N] mean of each link: signal-to-noise ratio (not dB) if `bandwidth_hz` is given, else bits per second.
    Each world draws one of the G placements an episode."""
    link_bank: np.ndarray
    """[R, L] bank, one row for a device and server: factor on `mean_link` in each slot; 0 is a dead link."""
    bandwidth_hz: float | None
    """Bandwidth of each server's channel; the rate is then Shannon's. None if `mean_link` is a rate itself."""
    shared_bandwidth: bool
    """Whether the tasks that send to a server in the same slot share its rate evenly."""
    rate_error: np.ndarray
    """[Q] quantile table: believed link rate over the true one, drawn for each task and server."""
    transmit_power_w: np.ndarray
    """[C] power of the radio while it sends."""
    server_capacity: np.ndarray
    """[N] tasks that a server holds at most, admitted and unfinished; whole numbers, or infinite."""
    share_bank: np.ndarray
    """[R, L] bank, one row for a server: share of its speed that it has for us in each slot, 0 to 1. At 0 it is out:
    it admits no task, but continues with those that it has admitted. The share is observed, as stale as the rest."""
    staleness_slots: int
    """Age of what is observed about the servers."""
    download_s: np.ndarray
    """[N] time of the answer's download."""
    drop_refused: bool
    """True: a refused task is lost and counts as waiting until its deadline. False: its device does it all."""
    task_energy_j: np.ndarray
    """[C] largest energy that a device may spend on one task; infinite for no limit."""
    battery_j: np.ndarray
    """[C] largest energy that a device may spend in an episode; infinite for no limit."""
    one_path: bool = False
    """Whether a device's links to all servers are one and the same, as over one mobile network; else each has a row of
    the bank for itself."""

    @property
    def devices(self) -> int:
        """Return U, the number of devices."""
        return self.device_class.shape[0]

    @property
    def servers(self) -> int:
        """Return N, the number of servers."""
        return self.server_capacity.shape[0]

    @property
    def classes(self) -> int:
        """Return C, the number of device classes."""
        return self.transmit_power_w.shape[0]

    @property
    def models(self) -> int:
        """Return X, the number of networks."""
        return self.model_cdf.shape[0]


class OffloadWorld(NamedTuple):
    """A scenario in which each task takes one option and one server (environment `offload`)."""

    name: str
    edge: Edge
    option_device_s: np.ndarray
    """[X, C, O] time on a device of the class, encoding included."""
    option_upload_bits: np.ndarray
    """[X, C, O] bits sent; 0 if nothing leaves the device."""
    option_server_s: np.ndarray
    """[X, C, O, N] time on each server when it has its whole speed, decoding included."""
    option_accuracy: np.ndarray
    """[X, C, O] 0 to 1."""
    option_device_j: np.ndarray
    """[X, C, O] energy of the device, computing only."""
    option_mask: np.ndarray
    """[X, C, O] bool, true if the option exists; otherwise the other tables hold 0."""
    local_option: np.ndarray
    """[X, C] int, the option that a refused task falls back to: it sends nothing."""
    serving: Serving | None = None
    """How servers batch and load; None if they do neither."""

    @property
    def options(self) -> int:
        """Return O, the largest number of options of a task."""
        return self.option_mask.shape[-1]


class BlocksWorld(NamedTuple):
    """A scenario in which each block of a task's network chooses its place (environment `blocks`).

    The servers' capacity must be infinite.
    """

    name: str
    edge: Edge
    block_device_s: np.ndarray
    """[X, C, M] time of each block on a device of the class; 0 past the network's last block."""
    block_server_s: np.ndarray
    """[X, M, N] time of each block on each server; 0 past the network's last block."""
    block_input_bits: np.ndarray
    """[X, M] size of the block's input."""
    block_device_j: np.ndarray
    """[X, C, M] energy of the device for the block."""
    block_mask: np.ndarray
    """[X, M] bool, true if the network has this block."""
    accuracy: np.ndarray
    """[X] accuracy of the whole network; no placement changes it."""
    backhaul_bps: float
    """Rate between two servers."""
    block_deadlines: bool = False
    """Whether a drawn deadline limits each block, with transfer and waiting before it, instead of the whole task."""

    @property
    def blocks(self) -> int:
        """Return M, the largest number of blocks of a network."""
        return self.block_mask.shape[-1]


class FrameData(NamedTuple):
    """F recorded frames with their best modes."""

    gain: np.ndarray
    """[F, N] channel gains."""
    offloads: np.ndarray
    """[F, N] bool, the modes that the file calls best; true sends, false computes."""
    rate_bps: np.ndarray
    """[F] weighted sum of rates of these modes."""


class WirelessPowerWorld(NamedTuple):
    """DROO's setting (Huang, Bi, Zhang, IEEE TMC 2020), with N devices and P phases of an episode."""

    name: str
    slots: int
    mean_gain: np.ndarray
    """[N] mean channel gain of each device; in a slot the gain is exponential around it."""
    phase_start: np.ndarray
    """[P] first slot of each phase; that of the first one is 0."""
    weight: np.ndarray
    """[P, N] weight of each device's rate in the sum."""
    on: np.ndarray
    """[P, N] bool; a device that is off has gain 0."""
    power_w: float
    harvest_efficiency: float
    cycles_per_bit: float
    capacitance: float
    noise_w: float
    bandwidth_hz: float
    overhead: float
    """Bits sent for each bit of the task."""
    frames: FrameData | None
    """Recorded frames, which take the place of drawn gains."""

    def split(self, share: float = 0.8) -> tuple["WirelessPowerWorld", "WirelessPowerWorld"]:
        """Return the world to train in and the one to judge in: the same without recorded frames, else the first and
        the last part of them.

        Args:
            share: of the frames that are for training (0.8 in the paper).
        """
        if self.frames is None:
            return self, self
        count = max(1, int(share * len(self.frames.rate_bps)))
        first, last = (FrameData(*(part[rows] for part in self.frames)) for rows in (np.s_[:count], np.s_[count:]))
        return self._replace(frames=first), self._replace(frames=last)


class QueueWorld(NamedTuple):
    """The same devices with a queue of bits at each (after LyDROO: Bi, Huang, Wang, Zhang, IEEE TWC 2021)."""

    frames: WirelessPowerWorld
    arrival_bits: float
    """Mean number of bits that arrive at each device in a frame; exponential."""
    rate_weight_bits: float
    """V of drift plus penalty: how many bits in a queue count as much as a weight of 1 (`envs.data_queues`)."""

    @property
    def name(self) -> str:
        """Return the name of the scenario."""
        return self.frames.name

    @property
    def slots(self) -> int:
        """Return the frames of an episode."""
        return self.frames.slots

    def split(self) -> tuple["QueueWorld", "QueueWorld"]:
        """Return the world to train in and the one to judge in, as `WirelessPowerWorld.split`."""
        first, last = self.frames.split()
        return self._replace(frames=first), self._replace(frames=last)


World = OffloadWorld | BlocksWorld | WirelessPowerWorld | QueueWorld


def check(world: OffloadWorld | BlocksWorld) -> None:
    """Check that the arrays of a world fit together.

    Args:
        world: of the environment `offload` or `blocks`.

    Raises:
        WorldError: naming the field, its value and what it must be.
    """
    edge = world.edge
    sizes = {"U": edge.devices, "N": edge.servers, "C": edge.classes, "X": edge.models, "K": edge.tasks}
    sizes |= {"O": world.options} if isinstance(world, OffloadWorld) else {"M": world.blocks}
    for name, letters in {**_EDGE_AXES, **_AXES[type(world)]}.items():
        holder = edge if name in Edge._fields else world
        _check_array(world.name, name, np.asarray(getattr(holder, name)), letters, sizes)
    for name, good, problem in _conditions(world):
        if not good:
            raise WorldError(f"scenario {world.name}: {name} {problem}")


# '?' is any size but 0.
_EDGE_AXES = {
    "device_class": "U",
    "model_cdf": "X",
    "arrival_cdf": "?K",
    "arrival_state": "??",
    "deadline_s": "XC2",
    "device_factor": "?",
    "server_factor": "?",
    "mean_link": "?UN",
    "link_bank": "??",
    "rate_error": "?",
    "transmit_power_w": "C",
    "server_capacity": "N",
    "share_bank": "??",
    "download_s": "N",
    "task_energy_j": "C",
    "battery_j": "C",
}
_AXES: dict[type, dict[str, str]] = {
    OffloadWorld: {
        "option_device_s": "XCO",
        "option_upload_bits": "XCO",
        "option_server_s": "XCON",
        "option_accuracy": "XCO",
        "option_device_j": "XCO",
        "option_mask": "XCO",
        "local_option": "XC",
    },
    BlocksWorld: {
        "block_device_s": "XCM",
        "block_server_s": "XMN",
        "block_input_bits": "XM",
        "block_device_j": "XCM",
        "block_mask": "XM",
        "accuracy": "X",
    },
}
_MAY_BE_INFINITE = {"deadline_s", "server_capacity", "task_energy_j", "battery_j"}


def _check_array(world: str, name: str, array: np.ndarray, letters: str, sizes: dict[str, int]) -> None:
    expected = [sizes.get(letter, int(letter) if letter.isdigit() else 0) for letter in letters]
    if (
        array.ndim != len(expected)
        or array.size == 0
        or any(w and w != n for n, w in zip(array.shape, expected, strict=True))
    ):
        shape = ", ".join(f"{letter} = {w}" if w else "any" for letter, w in zip(letters, expected, strict=True))
        raise WorldError(f"scenario {world}: {name} must be [{shape}], got {list(array.shape)}")
    good = array >= 0 if name in _MAY_BE_INFINITE else (array >= 0) & np.isfinite(array)
    if not good.all():
        raise WorldError(f"scenario {world}: {name} must not be negative or NaN, got {array[~good].flat[0]}")


def _conditions(world: OffloadWorld | BlocksWorld) -> Iterator[tuple[str, bool, str]]:
    """Yield field, whether it is good, and what it must be; a later condition may rely on the earlier ones."""
    edge = world.edge
    yield "slots", edge.slots >= 1, f"must be at least 1, got {edge.slots}"
    yield "slot_s", 0 < edge.slot_s < np.inf, f"must be above 0, got {edge.slot_s}"
    yield "staleness_slots", edge.staleness_slots >= 0, f"must not be negative, got {edge.staleness_slots}"
    if edge.distinct_devices:
        problem = f"needs as many devices as tasks in a slot, got {edge.devices} devices and {edge.tasks} tasks"
        yield "distinct_devices", edge.tasks <= edge.devices, problem
    yield "device_class", bool((edge.device_class < edge.classes).all()), f"must be below {edge.classes}"
    yield "model_cdf", bool((np.diff(edge.model_cdf) >= 0).all() and edge.model_cdf[-1] == 1), "must rise to 1"
    rises = (np.diff(edge.arrival_cdf, axis=1) >= 0).all() and (edge.arrival_cdf <= 1).all()
    yield "arrival_cdf", bool(rises), "must rise, and not above 1"
    states = edge.arrival_cdf.shape[0]
    yield "arrival_state", bool((edge.arrival_state < states).all()), f"must be below {states}"
    yield "deadline_s", bool((edge.deadline_s[..., 0] <= edge.deadline_s[..., 1]).all()), "must be [least, greatest]"
    loses = edge.drop_refused or np.isfinite(edge.task_energy_j).any() or np.isfinite(edge.battery_j).any()
    lasting = bool(loses and np.isinf(edge.deadline_s).any())
    yield "deadline_s", not lasting, "must be finite where tasks can be lost (drop_refused, or a limit on energy)"
    yield "share_bank", bool((edge.share_bank <= 1).all()), "must not be above 1"
    yield "share_bank", bool((edge.share_bank > 0).any()), "must be above 0 somewhere"
    yield "rate_error", bool((edge.rate_error > 0).all()), "must be above 0"
    yield "bandwidth_hz", edge.bandwidth_hz is None or 0 < edge.bandwidth_hz < np.inf, "must be above 0"
    capacity = edge.server_capacity
    if isinstance(world, BlocksWorld):
        yield "server_capacity", bool(np.isinf(capacity).all()), "must be infinite for blocks"
        yield "block_mask", bool(world.block_mask[:, 0].all()), "must have a first block of every network"
        yield "backhaul_bps", world.backhaul_bps > 0, f"must be above 0, got {world.backhaul_bps}"
        return
    yield "server_capacity", bool((capacity[np.isfinite(capacity)] % 1 == 0).all()), "must be whole or infinite"
    yield "option_accuracy", bool((world.option_accuracy <= 1).all()), "must not be above 1"
    local = world.local_option[..., None]
    yield "local_option", bool((local < world.options).all()), f"must be below {world.options}"
    exists = bool(np.take_along_axis(world.option_mask, local, -1).all())
    yield "local_option", exists, "must name an option that exists"
    sends = bool(np.take_along_axis(world.option_upload_bits, local, -1).any())
    yield "local_option", not sends, "must name an option that sends nothing"

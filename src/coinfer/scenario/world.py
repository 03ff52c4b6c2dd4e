"""The compiled scenario: dense tables, and the parameters of its processes. An environment needs nothing else.

Letters, beside those of `types`: G placements of the devices, C device classes, X networks (models), A states of the
arrivals, R rows and L slots of a bank, Q equally likely values.

A **bank** [R, L] holds R sample paths of a process with one value for each slot: fading, a measured trace, outages, a
walk, whatever the scenario names. Each link and each server draws a row and a first slot once an episode (if L allows,
the first slot leaves room for the whole episode; otherwise the row is read in a circle). So the environment knows
nothing about the process, and any process costs one look-up. A process that does not vary is a bank [[1.0]].

A **quantile table** [Q] holds equally likely values; [1.0] switches it off.
"""

from typing import NamedTuple

import numpy as np

from coinfer.scenario.serving import Serving


class RecordedTasks(NamedTuple):
    """Tasks that come in every world as they were recorded, for L slots; after these none come."""

    task_mask: np.ndarray
    """[L, K] bool, true if there is a task."""
    device: np.ndarray
    """[L, K] int, device of the task; any where there is none."""
    model: np.ndarray
    """[L, K] int, network of the task; any where there is none."""


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
    model_mix: np.ndarray | None = None
    """[A, X] cumulative shares of the networks by the state of the arrivals; None if they are always `model_cdf`."""
    recorded: RecordedTasks | None = None
    """Tasks in the place of drawn ones; None if they are drawn."""

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
    """[X, C, O] bool, true if the option may be chosen; if it does not exist, the other tables hold 0."""
    local_option: np.ndarray
    """[X, C] int, the option that a refused task falls back to: it sends nothing. It may be one that is not chosen."""
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

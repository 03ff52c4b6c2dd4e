"""What a scenario file may contain. Keys name their units; `load` reads the files and words the errors.

A missing key has the default given here. A default switches something off or is the plain case, never a measured
figure.
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from coinfer.options.prune import Rule
from coinfer.scenario.fields import (
    BitKey,
    BitWidth,
    Capacitance,
    Count,
    Flag,
    Fraction,
    Hertz,
    Positive,
    Rate,
    Seconds,
    Share,
    Spec,
    Text,
    integer,
    list_of,
    one_of,
    real,
)
from coinfer.scenario.spec_arrivals import Arrivals
from coinfer.scenario.spec_links import Links, Outages, ServerShare
from coinfer.scenario.spec_nodes import Device, Server


class Model(Spec):
    """A network that requests ask for."""

    network: Text
    """One that is shipped, or the file that `coinfer scenario profile` wrote."""
    share: Positive = 1.0
    """Share of the requests, in proportion to the other networks' shares."""
    bits: Annotated[tuple[BitWidth, ...], list_of(5)] = (8,)
    """Bits per element in which intermediate tensors may be sent. An image input has its own 8."""
    sizes: Annotated[str, one_of("measured", "plain")] = "measured"
    """What is sent: the codec's output on sample pictures, or elements times bits."""
    bottleneck: bool = False
    """Whether what is sent may also be a code of the network's bottleneck, which its table must have."""
    exits: Annotated[tuple[Annotated[int, integer(1, 100)], ...], list_of(100)] | None = None
    """Numbers of the exits that may answer, from 1; without it only the last one."""
    accuracy: Annotated[tuple[Share, ...], list_of(100)] = (1.0,)
    """Accuracy of each of these exits."""
    accuracy_drop: dict[BitKey, Share] = Field(default_factory=dict)
    """Loss of accuracy by bits, if a tensor other than the input is sent in them; 0 if not given."""
    accuracy_table: Text | None = None
    """Instead of `accuracy` and `accuracy_drop`: the file that `coinfer exits measure` wrote for this network."""
    deadline_s: Annotated[tuple[Seconds, ...], list_of(2)] | None = None
    """One deadline, or [least, greatest] of evenly drawn ones."""
    size_bytes: Annotated[float, real("bytes", 0, 1e12, above=True)] | None = None
    """Memory that it takes on a server; needed if a server has `memory_bytes`."""
    deadline_factor: Positive | None = None
    """Instead: the deadline as a multiple of the least latency of one task alone on the mean link."""


class LatencyReward(Spec):
    """Minus the latency of each task (CDO-DSAC)."""

    kind: Literal["latency"]


class LateReward(Spec):
    """Minus the latency, and minus `weight` times the time after the deadline (multi-task A3C)."""

    kind: Literal["late"]
    weight: Annotated[float, real("", 0, 1e6)]


class WeightedReward(Spec):
    """Accuracy against latency; the better the link, the more accuracy counts (SAC-d)."""

    kind: Literal["weighted"]
    best_bps: Rate
    """At this rate only accuracy counts."""
    sensitivity: Positive
    scale_s: Seconds
    """A latency that weighs as much as full accuracy."""


class EarlyExitReward(Spec):
    """Accuracy less a share for the latency if a task is in time, and a penalty if it is late (GRLE)."""

    kind: Literal["early-exit"]
    latency_weight: Fraction
    late_penalty: Annotated[float, real("", 0, 1e6)]


Reward = Annotated[LatencyReward | LateReward | WeightedReward | EarlyExitReward, Field(discriminator="kind")]


class BaseScenario(Spec):
    """Keys that the environments `offload` and `blocks` share."""

    name: Text
    about: Text
    seed: Annotated[int, integer(0, 2**31 - 1)] = 0
    """Seed of what is drawn once for all: placements, sample paths. Runs have seeds of their own."""
    slot_s: Seconds
    slots: Annotated[int, integer(1, 1_000_000)]
    """Slots of an episode."""
    tasks_per_slot: Annotated[int, integer(1, 4096)]
    """Largest number of tasks in a slot; more do not arrive."""
    distinct_devices: Flag = False
    """Whether a device has at most one task in a slot."""
    arrivals: Arrivals
    models: Annotated[tuple[Model, ...], list_of(100)]
    devices: Annotated[tuple[Device, ...], list_of(1000)]
    servers: Annotated[tuple[Server, ...], list_of(1000)]
    links: Links
    server_share: ServerShare | None = None
    outages: Outages | None = None
    staleness_slots: Annotated[int, integer(0, 10_000)] = 0
    """Age of the observation of the servers."""
    compute_error: Fraction = 0.0
    """True computing times lie uniformly within this fraction of the expected ones, and are not observed."""
    rate_error: Fraction = 0.0
    """Believed link rates lie uniformly within this fraction of the true ones."""
    refused: Annotated[str, one_of("device", "drop")] = "device"
    """Whether a task that no server admits finishes on its device, or is lost."""
    reward: Reward = LatencyReward(kind="latency")
    """Reward of a learner; baselines ignore it."""


class OffloadScenario(BaseScenario):
    """Each task gets one option and one server."""

    environment: Literal["offload"]
    cuts: Annotated[str, one_of("all", "ends")] = "all"
    """`ends`: the whole network on the server or on the device."""
    prune: Annotated[Rule, one_of("hull", "near-best", "dominated", "none")] = "hull"
    """`hull` (CDLP): only options that some link rate makes the fastest for one task alone; `dominated`: only those
    that no other beats in everything, which loses nothing under any load. If a device's energy is limited, `hull`
    means `dominated`."""
    local: Annotated[str, one_of("choice", "refused")] = "choice"
    """Whether a task may be left to its device, or only refused tasks are."""
    keep: Annotated[str, one_of("all", "best")] = "all"
    """`best`: the one option that is fastest on the mean link, and the device alone."""


class BlocksScenario(BaseScenario):
    """Each block of a task's network gets a place."""

    environment: Literal["blocks"]
    blocks: Annotated[int, integer(1, 1000)]
    """Number of blocks of equal arithmetic, as far as the network's cuts allow."""
    backhaul_bps: Rate
    """Rate between two servers."""
    deadline_of: Annotated[str, one_of("task", "block")] = "task"
    """Whether a drawn deadline limits the whole task, or each of its blocks with the transfer and waiting before it."""


class FramePhase(Spec):
    """What is different from a frame on, until the next phase; what is not given is as at the beginning."""

    from_slot: Count
    weights: Annotated[tuple[Positive, ...], list_of(1000)] | None = None
    off: Annotated[tuple[Annotated[int, integer(0, 999)], ...], list_of(1000)] | None = None
    """Numbers of the devices that are switched off, from 0."""


class DataQueues(Spec):
    """Bits arrive at every device and wait there until they are computed or sent (after LyDROO)."""

    arrival_bits: Positive
    """Mean number of bits of each device and frame; exponential."""
    rate_weight_bits: Positive
    """V of drift plus penalty: a device counts by its weight and by its queue over V."""


class WirelessPowerScenario(Spec):
    """Devices that a station feeds by radio, then computing or sending (DROO)."""

    environment: Literal["wireless-power"]
    name: Text
    about: Text
    devices: Annotated[int, integer(1, 1000)]
    slots: Annotated[int, integer(1, 1_000_000)]
    weights: Annotated[tuple[Positive, ...], list_of(1000)]
    """Weights of the devices' rates, in turn."""
    nearest_m: Annotated[float, real("metres", 0, 1e5, above=True)]
    step_m: Annotated[float, real("metres", 0, 1e5)]
    """Device i stands at `nearest_m` + i `step_m`."""
    antenna_gain: Positive
    carrier_hz: Hertz
    path_loss_exponent: Annotated[float, real("", 1, 8)]
    power_w: Annotated[float, real("watts", 0, 1e6, above=True)]
    """Power of the station."""
    harvest_efficiency: Annotated[float, real("", 0, 1, above=True)]
    cycles_per_bit: Positive
    capacitance: Capacitance
    noise_w: Annotated[float, real("watts", 0, 1, above=True)]
    bandwidth_hz: Hertz
    overhead: Annotated[float, real("", 1, 100)]
    """Bits sent for each bit of the task."""
    phases: Annotated[tuple[FramePhase, ...], list_of(1000)] | None = None
    """In the order of their frames."""
    queues: DataQueues | None = None
    data: Text | None = None
    """File of frames in the form of the authors' (`scenario.frame_data`), whose channels take the place of drawn
    ones."""


AnyScenario = OffloadScenario | BlocksScenario | WirelessPowerScenario
ADAPTER: TypeAdapter[AnyScenario] = TypeAdapter(Annotated[AnyScenario, Field(discriminator="environment")])

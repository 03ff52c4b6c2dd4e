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
    Joules,
    Metres,
    Positive,
    Rate,
    Seconds,
    SecondsOrNone,
    Share,
    Spec,
    Text,
    Watts,
    integer,
    list_of,
    one_of,
    real,
)


class PoissonArrivals(Spec):
    """Requests that come independently of each other."""

    kind: Literal["poisson"]
    rate_per_s: Annotated[float, real("requests per second", 0, 1e9, above=True)]


class LognormalArrivals(Spec):
    """The rate of each slot is lognormal, the count Poisson around it."""

    kind: Literal["lognormal"]
    mean: Positive
    """Of the rate, in requests per `per_s`."""
    variance: Positive
    per_s: Seconds


class FixedArrivals(Spec):
    """The same number of requests in every slot."""

    kind: Literal["fixed"]
    tasks: Annotated[int, integer(1, 4096)]


class MeasuredArrivals(Spec):
    """Poisson around a workload from a file; each world starts somewhere else in it."""

    kind: Literal["measured"]
    file: Text
    """CSV as `traces` describes it."""
    series: Text | None = None
    """Which, where the file has several."""
    scale: Positive = 1.0
    """How many times as many requests here: bursts grow with it."""
    copies: Annotated[int, integer(1, 10_000)] = 1
    """How many such workloads come at once, begun at evenly spaced points; bursts of one hide in the others'."""
    start_s: SecondsOrNone = 0.0
    length_s: Seconds | None = None


Arrivals = Annotated[
    PoissonArrivals | LognormalArrivals | FixedArrivals | MeasuredArrivals, Field(discriminator="kind")
]


class Model(Spec):
    """A network that requests ask for."""

    network: Text
    """One that is shipped, or the file that `coinfer scenario profile` wrote."""
    share: Positive = 1.0
    """Of the requests, in proportion to the other networks' shares."""
    bits: Annotated[tuple[BitWidth, ...], list_of(5)] = (8,)
    """Bits per element in which intermediate tensors may be sent. An image input has its own 8."""
    sizes: Annotated[str, one_of("measured", "plain")] = "measured"
    """What is sent: the codec's output on sample pictures, or elements times bits."""
    exits: Annotated[tuple[Annotated[int, integer(1, 100)], ...], list_of(100)] | None = None
    """Which exits may answer, from 1; without it the last one."""
    accuracy: Annotated[tuple[Share, ...], list_of(100)] = (1.0,)
    """Of each of these exits."""
    accuracy_drop: dict[BitKey, Share] = Field(default_factory=dict)
    """What is lost where a tensor other than the input is sent in so many bits; 0 where none is given."""
    accuracy_table: Text | None = None
    """Instead of `accuracy` and `accuracy_drop`: the file that `coinfer exits measure` wrote for this network."""
    deadline_s: Annotated[tuple[Seconds, ...], list_of(2)] | None = None
    """One deadline, or [least, greatest] of evenly drawn ones."""
    deadline_factor: Positive | None = None
    """Instead: the deadline as a multiple of the least latency on the mean link with nobody else there."""


class Computer(Spec):
    """How fast something computes: exactly one of the first four keys."""

    catalogue: Text | None = None
    """Class of the device catalogue; scales the network's measured times."""
    slowdown: Annotated[float, real("times slower than the measured machine", 1e-4, 1e6)] | None = None
    flop_per_s: Annotated[float, real("FLOP per second", 0, 1e18, above=True)] | None = None
    """Time is arithmetic over speed; coding takes none."""
    profiles: Annotated[tuple[Text, ...], list_of(100)] | None = None
    """Network tables measured on this very machine, one for each network."""
    count: Count = 1


class Device(Computer):
    compute_power_w: Watts = 0.0
    """While it computes, beside what it always draws."""
    capacitance: Capacitance | None = None
    """Instead of `compute_power_w`: kappa of E = kappa f^2 cycles, with `freq_hz`."""
    freq_hz: Annotated[float, real("cycles per second", 0, 1e12, above=True)] | None = None
    transmit_power_w: Watts = 0.0
    task_energy_j: Joules | None = None
    """Most that one task may spend."""
    battery_j: Joules | None = None
    """Most that a device may spend in an episode."""


class Server(Computer):
    capacity: Annotated[int, integer(0, 1_000_000)] | None = None
    """Tasks that it holds at most, admitted and unfinished."""
    download_s: SecondsOrNone = 0.0
    """The answer's way back."""


class Fading(Spec):
    kind: Annotated[str, one_of("none", "rayleigh", "gauss-markov")] = "none"
    """`rayleigh`: anew in every slot; `gauss-markov`: Rayleigh's distribution, correlated from slot to slot."""
    correlation: Fraction = 0.0


class ConstantLinks(Spec):
    """The same rate for all."""

    kind: Literal["constant"]
    rate_bps: Rate
    fading: Fading = Fading()


class UniformLinks(Spec):
    """Rates drawn evenly, anew every `hold_slots`, or once an episode without it."""

    kind: Literal["uniform"]
    low_bps: Rate
    high_bps: Rate
    hold_slots: Count | None = None


class WalkLinks(Spec):
    """Each rate takes an even step of at most `step_bps` every slot, and turns back at the ends."""

    kind: Literal["walk"]
    low_bps: Rate
    high_bps: Rate
    step_bps: Rate


class RadioLinks(Spec):
    """Devices and servers in a circle; path loss 140.7 + 36.7 log10(d / km) dB, thermal noise, Shannon's rate."""

    kind: Literal["radio"]
    bandwidth_hz: Hertz
    diameter_m: Metres
    nearest_m: Metres = 1.0
    """Nobody stands nearer to a server."""
    noise_dbm_per_hz: Annotated[float, real("dBm per hertz", -250, 0)] = -174.0
    shared: Flag = False
    """Whether those who send to a server at a time share its channel."""
    placements: Annotated[int, integer(1, 1024)] = 32
    """Ways to place everybody, of which each episode draws one."""
    fading: Fading = Fading()


class TraceLinks(Spec):
    """Measured rates; each device starts somewhere else in one of the traces."""

    kind: Literal["traces"]
    files: Annotated[tuple[Text, ...], list_of(20)]
    """CSV as `traces` describes them; looked for beside the scenario, in `COINFER_DATA`, and among those shipped."""
    otherwise: Annotated[tuple[Text, ...], list_of(20)] | None = None
    """Files to take, with a notice, where one of `files` is not there."""
    scale: Positive = 1.0
    """Factor on every rate."""
    average_s: Seconds | None = None
    """A slot's rate is the mean over this time from its start on; one slot without it. A transfer that outlasts its
    slot sees the rate of its first one, so this should be about as long as a transfer."""
    floor_bps: Annotated[float, real("bits per second", 0, 1e13)] = 0.0
    """Rates below are raised to it."""
    one_path: Flag = True
    """Whether a device has the same link to all servers, as over one mobile network."""


Links = Annotated[ConstantLinks | UniformLinks | WalkLinks | RadioLinks | TraceLinks, Field(discriminator="kind")]


class ServerShare(Spec):
    """Share of its speed that a server has for us: drawn evenly, anew every `hold_slots`."""

    low: Annotated[float, real("", 0.001, 1)]
    high: Annotated[float, real("", 0.001, 1)]
    hold_slots: Count = 1


class Outages(Spec):
    """Servers go out and come back; both times are exponential."""

    up_s: Seconds
    down_s: Seconds


class LatencyReward(Spec):
    """Minus the latency of each task (CDO-DSAC)."""

    kind: Literal["latency"]


class LateReward(Spec):
    """Minus the latency, and minus `weight` times what comes after the deadline (multi-task A3C)."""

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
    """Accuracy of what is in time, less a little for its latency, and a penalty for what is late (GRLE)."""

    kind: Literal["early-exit"]
    latency_weight: Fraction
    late_penalty: Annotated[float, real("", 0, 1e6)]


Reward = Annotated[LatencyReward | LateReward | WeightedReward | EarlyExitReward, Field(discriminator="kind")]


class BaseScenario(Spec):
    """What `offload` and `blocks` share."""

    name: Text
    about: Text
    seed: Annotated[int, integer(0, 2**31 - 1)] = 0
    """Of what is drawn once for all: places, sample paths. Runs have seeds of their own."""
    slot_s: Seconds
    slots: Annotated[int, integer(1, 1_000_000)]
    """Slots of an episode."""
    tasks_per_slot: Annotated[int, integer(1, 4096)]
    """Places for tasks; arrivals beyond it do not happen."""
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
    """Age of what is known about the servers."""
    compute_error: Fraction = 0.0
    """True computing times lie evenly within this fraction of the expected, known to nobody."""
    rate_error: Fraction = 0.0
    """Believed link rates lie evenly within this fraction of the true."""
    refused: Annotated[str, one_of("device", "drop")] = "device"
    """A task that no server admits finishes on its device, or is lost."""
    reward: Reward = LatencyReward(kind="latency")
    """What a learner is paid for; baselines do not ask."""


class OffloadScenario(BaseScenario):
    """Each task takes one option and one server."""

    environment: Literal["offload"]
    cuts: Annotated[str, one_of("all", "ends")] = "all"
    """`ends`: the whole network on the server or on the device."""
    prune: Annotated[Rule, one_of("hull", "near-best", "dominated", "none")] = "hull"
    """`hull` (CDLP): only options that some link rate makes the fastest with nobody else there; `dominated`: only those
    that no other beats in everything, which loses nothing under any load. Where a device's energy is limited, `hull`
    means `dominated`."""
    keep: Annotated[str, one_of("all", "best")] = "all"
    """`best`: the one option that is fastest on the mean link, and the device alone."""


class BlocksScenario(BaseScenario):
    """Each block of a task's network takes a place."""

    environment: Literal["blocks"]
    blocks: Annotated[int, integer(1, 1000)]
    """Of equal arithmetic, as far as the network's cuts allow."""
    backhaul_bps: Rate
    """Between two servers."""


class WirelessPowerScenario(Spec):
    """Devices that a station feeds by radio, then computing or sending (DROO)."""

    environment: Literal["wireless-power"]
    name: Text
    about: Text
    devices: Annotated[int, integer(1, 1000)]
    slots: Annotated[int, integer(1, 1_000_000)]
    weights: Annotated[tuple[Positive, ...], list_of(1000)]
    """Of the devices' rates, in turn."""
    nearest_m: Annotated[float, real("metres", 0, 1e5, above=True)]
    step_m: Annotated[float, real("metres", 0, 1e5)]
    """Device i stands at `nearest_m` + i `step_m`."""
    antenna_gain: Positive
    carrier_hz: Hertz
    path_loss_exponent: Annotated[float, real("", 1, 8)]
    power_w: Annotated[float, real("watts", 0, 1e6, above=True)]
    """Of the station."""
    harvest_efficiency: Annotated[float, real("", 0, 1, above=True)]
    cycles_per_bit: Positive
    capacitance: Capacitance
    noise_w: Annotated[float, real("watts", 0, 1, above=True)]
    bandwidth_hz: Hertz
    overhead: Annotated[float, real("", 1, 100)]
    """Bits sent for each bit of the task."""


AnyScenario = OffloadScenario | BlocksScenario | WirelessPowerScenario
ADAPTER: TypeAdapter[AnyScenario] = TypeAdapter(Annotated[AnyScenario, Field(discriminator="environment")])

"""Links, and how servers come and go, as a scenario file says it."""

from typing import Annotated, Literal

from pydantic import Field

from coinfer.scenario.fields import (
    Count,
    Flag,
    Fraction,
    Hertz,
    Metres,
    Positive,
    Rate,
    Seconds,
    Spec,
    Text,
    integer,
    list_of,
    one_of,
    real,
)


class Fading(Spec):
    """How the power of a radio link varies from slot to slot, around a mean of 1."""

    kind: Annotated[str, one_of("none", "rayleigh", "gauss-markov")] = "none"
    """`rayleigh`: independent in every slot; `gauss-markov`: Rayleigh's distribution, correlated from slot to slot."""
    correlation: Fraction = 0.0


class ConstantLinks(Spec):
    """The same rate for all."""

    kind: Literal["constant"]
    rate_bps: Rate
    fading: Fading = Fading()


class PairLinks(Spec):
    """A mean rate from each device to each server, around which all rates vary uniformly."""

    kind: Literal["pairs"]
    rate_bps: Annotated[tuple[Annotated[tuple[Rate, ...], list_of(1000)], ...], list_of(4096)]
    """A row for each device, in the order of the classes, with a rate for each server."""
    variation: Fraction = 0.0
    """Rates lie within this part of their means."""
    hold_slots: Count = 1
    """Slots for which a rate stays."""


class UniformLinks(Spec):
    """Rates drawn uniformly, again every `hold_slots`, or once an episode without it."""

    kind: Literal["uniform"]
    low_bps: Rate
    high_bps: Rate
    hold_slots: Count | None = None


class WalkLinks(Spec):
    """Each rate takes a uniform step of at most `step_bps` every slot, and turns back at the ends."""

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
    """Least distance of a device from a server."""
    noise_dbm_per_hz: Annotated[float, real("dBm per hertz", -250, 0)] = -174.0
    shared: Flag = False
    """Whether the devices that send to a server in the same slot share its channel."""
    placements: Annotated[int, integer(1, 1024)] = 32
    """Number of random placements of devices and servers, of which each episode draws one."""
    fading: Fading = Fading()


class TraceLinks(Spec):
    """Measured rates; each device starts at another point of one of the traces."""

    kind: Literal["traces"]
    files: Annotated[tuple[Text, ...], list_of(20)]
    """CSV as `traces` describes them; looked for beside the scenario, in `COINFER_DATA`, and among those shipped."""
    otherwise: Annotated[tuple[Text, ...], list_of(20)] | None = None
    """Files to use, with a note, if one of `files` does not exist."""
    scale: Positive = 1.0
    """Factor on every rate."""
    average_s: Seconds | None = None
    """A slot's rate is the mean over this time from its start on; one slot without it. A transfer that outlasts its
    slot sees the rate of its first one, so this should be about as long as a transfer."""
    floor_bps: Annotated[float, real("bits per second", 0, 1e13)] = 0.0
    """Lower rates are raised to it."""
    one_path: Flag = True
    """Whether a device has the same link to all servers, as over one mobile network."""


Links = Annotated[
    ConstantLinks | PairLinks | UniformLinks | WalkLinks | RadioLinks | TraceLinks, Field(discriminator="kind")
]


class ServerShare(Spec):
    """Share of its speed that a server has for these tasks: drawn uniformly, again every `hold_slots`."""

    low: Annotated[float, real("", 0.001, 1)]
    high: Annotated[float, real("", 0.001, 1)]
    hold_slots: Count = 1


class Outages(Spec):
    """Servers go out and come back; both times are exponential."""

    up_s: Seconds
    down_s: Seconds

"""How requests arrive, as a scenario file says it."""

from typing import Annotated, Literal

from pydantic import Field

from coinfer.scenario.fields import (
    Positive,
    Rate,
    Seconds,
    SecondsOrNone,
    Spec,
    Text,
    integer,
    list_of,
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
    """Mean of the rate, in requests per `per_s`."""
    variance: Positive
    per_s: Seconds


class FixedArrivals(Spec):
    """The same number of requests in every slot."""

    kind: Literal["fixed"]
    tasks: Annotated[int, integer(1, 4096)]


class MeasuredArrivals(Spec):
    """Poisson around a workload from a file; each world starts at another point of it."""

    kind: Literal["measured"]
    file: Text
    """CSV as `traces` describes it."""
    series: Text | None = None
    """Which series, if the file has several."""
    scale: Positive = 1.0
    """Factor on the number of requests: bursts grow with it."""
    copies: Annotated[int, integer(1, 10_000)] = 1
    """Number of such workloads at the same time, from evenly spaced points of it; their bursts even out."""
    start_s: SecondsOrNone = 0.0
    length_s: Seconds | None = None


class MarkovArrivals(Spec):
    """Poisson arrivals whose rate changes with a hidden state, which stays for a random time; each world starts at
    another point of the same history."""

    kind: Literal["markov"]
    rates_per_s: Annotated[tuple[Rate, ...], list_of(16)]
    """Requests per second in each state."""
    stay_s: Seconds
    """Mean time in a state; it is exponential, and every other state may follow, each equally likely."""
    shift: Annotated[int, integer(0, 100)] = 0
    """How the networks' shares move: in state i, network x has the share that is given for network x - i * shift."""


class RecordedArrivals(Spec):
    """The requests of a file, each at its moment, by its device, for its network; the same in every world."""

    kind: Literal["recorded"]
    file: Text
    """CSV as `recorded` describes it."""


Arrivals = Annotated[
    PoissonArrivals | LognormalArrivals | FixedArrivals | MeasuredArrivals | MarkovArrivals | RecordedArrivals,
    Field(discriminator="kind"),
]

"""Devices and servers, as a scenario file says it."""

from typing import Annotated

from coinfer.scenario.fields import (
    Capacitance,
    Count,
    Joules,
    Positive,
    SecondsOrNone,
    Spec,
    Text,
    Watts,
    integer,
    list_of,
    real,
)


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
    """A class of devices: their speed, and the energy that they spend."""

    compute_power_w: Watts = 0.0
    """Power while it computes, beyond what it always draws."""
    capacitance: Capacitance | None = None
    """Instead of `compute_power_w`: kappa of E = kappa f^2 cycles, with `freq_hz`."""
    freq_hz: Annotated[float, real("cycles per second", 0, 1e12, above=True)] | None = None
    transmit_power_w: Watts = 0.0
    task_energy_j: Joules | None = None
    """Largest energy that one task may spend."""
    battery_j: Joules | None = None
    """Largest energy that a device may spend in an episode."""


class Batching(Spec):
    """How a server runs requests of the same piece of a network as one batch (`physics.batching`)."""

    sizes: Annotated[tuple[Annotated[int, integer(1, 256)], ...], list_of(32)]
    """Measured sizes from 1, rising; the last one is the largest batch."""
    times: dict[Text, Annotated[tuple[Positive, ...], list_of(32)]]
    """By network, the time of a batch of each size; only their ratios count. Networks without any are not batched."""


class Server(Computer):
    """A class of edge servers."""

    capacity: Annotated[int, integer(0, 1_000_000)] | None = None
    """Tasks that it holds at most, admitted and unfinished."""
    download_s: SecondsOrNone = 0.0
    """Time of the answer's download."""
    batching: Batching | None = None
    memory_bytes: Annotated[float, real("bytes", 0, 1e15, above=True)] | None = None
    """Room for networks (`physics.loading`); without it the server holds all of them from the beginning."""
    load_bytes_per_s: Annotated[float, real("bytes per second", 0, 1e13, above=True)] | None = None
    """How fast networks are loaded; needed with `memory_bytes`."""
    load_s: SecondsOrNone = 0.0
    """Time that every load takes beside that."""

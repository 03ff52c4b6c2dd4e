"""Links and servers that vary: mean links for each placement, and banks of sample paths (see `world`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coinfer.errors import short_repr
from coinfer.physics import radio
from coinfer.scenario.load import Source
from coinfer.scenario.spec import BaseScenario
from coinfer.scenario.spec_links import (
    ConstantLinks,
    Fading,
    Outages,
    PairLinks,
    RadioLinks,
    TraceLinks,
    UniformLinks,
    WalkLinks,
)
from coinfer.scenario.traces import DATA_VARIABLE, find_file
from coinfer.traces import Trace, load_traces

BANK_VALUES = 1 << 18
"""Values of a drawn bank; more would not fit into the cache."""
MAX_ROWS = 4096
_MAX_TRACE_SLOTS = 1_000_000
"""Slots of a trace at most."""
CONSTANT_BANK = np.ones((1, 1))
_EPISODES = 4
"""Length of a row in episodes, if that is short enough; so starts differ."""


class Links(NamedTuple):
    """The links of a scenario, in the form of `world.Edge`."""

    mean: np.ndarray
    """[G, U, N] signal-to-noise ratio, or bits per second."""
    bank: np.ndarray
    """[R, L] factor."""
    bandwidth_hz: float | None
    shared: bool
    notes: tuple[str, ...] = ()

    def mean_bps(self) -> np.ndarray:
        """Return the rate [U, N] at the mean of the bank, averaged over the placements, if no other device sends."""
        if self.bandwidth_hz is None:
            return self.mean.mean(axis=0) * self.bank.mean()
        return radio.shannon_bps(self.mean, self.bandwidth_hz).mean(axis=0)


def build_links(spec: BaseScenario, source: Source, devices: int, servers: int, rng: np.random.Generator) -> Links:
    """Return the links that a scenario describes.

    Args:
        spec: says which kind of links.
        source: locates files and errors.
        devices: U.
        servers: N.
        rng: draws places and sample paths.

    Raises:
        UserError: if a trace cannot be used.
    """
    plain = np.ones((1, devices, servers))
    match spec.links:
        case ConstantLinks() as links:
            return Links(plain * links.rate_bps, fading(links.fading, spec.slots, rng), None, False)
        case PairLinks(rate_bps=rows, variation=part, hold_slots=hold):
            bank = piecewise_constant(1 - part, 1 + part, hold, spec.slots, rng) if part else CONSTANT_BANK
            return Links(np.array(rows)[None], bank, None, False)
        case UniformLinks() as links:
            hold = links.hold_slots or 0
            return Links(plain, piecewise_constant(links.low_bps, links.high_bps, hold, spec.slots, rng), None, False)
        case WalkLinks() as links:
            return Links(
                plain, random_walk(links.low_bps, links.high_bps, links.step_bps, spec.slots, rng), None, False
            )
        case RadioLinks() as links:
            snr = _place_devices(links, _powers_w(spec, devices), servers, rng)
            return Links(snr, fading(links.fading, spec.slots, rng), links.bandwidth_hz, links.shared)
        case TraceLinks() as links:
            traces, notes = _traces(links, spec.slot_s, source)
            return Links(plain, trace_windows(traces, links, spec.slot_s, spec.slots), None, False, notes)


def rows_and_slots(slots: int) -> tuple[int, int]:
    """Return the size [R, L] of a drawn bank.

    Args:
        slots: of an episode.
    """
    length = min(max(_EPISODES * slots, 256), BANK_VALUES // 16)
    return min(BANK_VALUES // length, MAX_ROWS), length


def fading(settings: Fading, slots: int, rng: np.random.Generator) -> np.ndarray:
    """Return power gains [R, L] of mean 1.

    Args:
        settings: kind of fading, and its correlation from slot to slot.
        slots: of an episode.
        rng: draws them.
    """
    if settings.kind == "none":
        return CONSTANT_BANK
    rows, length = rows_and_slots(slots)
    if settings.kind == "rayleigh":
        return radio.rayleigh_gain(rng.random((rows, length)))
    parts = rng.standard_normal((2, rows))
    gains = np.empty((rows, length))
    for slot in range(length):
        gains[:, slot] = (parts**2).sum(axis=0) / 2
        parts = radio.gauss_markov(parts, rng.standard_normal((2, rows)), settings.correlation)
    return gains


def piecewise_constant(low: float, high: float, hold_slots: int, slots: int, rng: np.random.Generator) -> np.ndarray:
    """Return uniformly drawn values [R, L] that change every few slots.

    Args:
        low: smallest value.
        high: largest value.
        hold_slots: slots for which a value stays; 0 keeps it for a whole episode.
        slots: of an episode.
        rng: draws them.
    """
    if hold_slots == 0:
        return rng.uniform(low, high, (MAX_ROWS, 1))
    rows, length = rows_and_slots(slots)
    hold_slots = min(hold_slots, BANK_VALUES)
    drawn = rng.uniform(low, high, (rows, -(-length // hold_slots)))
    return np.repeat(drawn, hold_slots, axis=1)


def random_walk(low: float, high: float, step: float, slots: int, rng: np.random.Generator) -> np.ndarray:
    """Return a walk [R, L] with uniform steps, reflected at both ends, from a uniformly drawn start.

    Args:
        low: smallest value.
        high: largest value.
        step: largest step.
        slots: of an episode.
        rng: draws them.
    """
    rows, length = rows_and_slots(slots)
    steps = rng.uniform(-step, step, (rows, length))
    steps[:, 0] = rng.uniform(0, high - low, rows)
    if high == low:
        return np.full((rows, length), low)
    unfolded = np.cumsum(steps, axis=1) % (2 * (high - low))
    return low + np.minimum(unfolded, 2 * (high - low) - unfolded)


def server_shares(spec: BaseScenario, rng: np.random.Generator) -> np.ndarray:
    """Return the share of its speed that a server has in each slot, [R, L]; 0 during an outage.

    Args:
        spec: says how shares vary and how long outages are.
        rng: draws them.
    """
    share = spec.server_share
    bank = piecewise_constant(share.low, share.high, share.hold_slots, spec.slots, rng) if share else CONSTANT_BANK
    if spec.outages is None:
        return bank
    rows, length = (bank.shape[0], bank.shape[1]) if share else rows_and_slots(spec.slots)
    return bank * ~_outage_bank(spec.outages, spec.slot_s, rows, length, rng)


def _outage_bank(outages: Outages, slot_s: float, rows: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """Return whether a server is out at the start of each slot, [rows, length].

    It is an alternating renewal process, which for exponential times is a Markov chain from slot to slot.
    """
    up, down = 1 / outages.up_s, 1 / outages.down_s
    long_run, memory = up / (up + down), np.exp(-(up + down) * slot_s)
    uniform = rng.random((rows, length))
    out = np.empty((rows, length), dtype=bool)
    out[:, 0] = uniform[:, 0] < long_run
    for slot in range(1, length):
        chance = long_run + memory * (out[:, slot - 1] - long_run)
        out[:, slot] = uniform[:, slot] < chance
    return out


def trace_windows(traces: Sequence[Trace], links: TraceLinks, slot_s: float, slots: int) -> np.ndarray:
    """Return pieces [R, L] of measured traces; each trace gives as many as the others if it is long enough.

    Args:
        traces: at least one.
        links: scale, floor and averaging of the rates.
        slot_s: length of a slot.
        slots: of an episode.
    """
    length = min(max(2 * slots, 64), BANK_VALUES // 16)
    max_rows = max(BANK_VALUES // length, 16)
    rows_per_trace = max(max_rows // len(traces), 1)
    rows = []
    for trace in traces[:: max(len(traces) // max_rows, 1)]:
        rates = trace.per_slot(slot_s)
        rates = np.resize(rates, max(len(rates), length))
        window = max(round(links.average_s / slot_s), 1) if links.average_s else 1
        rates = moving_mean(rates, window)
        starts = np.unique(
            np.linspace(0, len(rates) - length, min(rows_per_trace, -(-len(rates) // length))).astype(int)
        )
        rows += [rates[start : start + length] for start in starts]
    return np.maximum(np.array(rows) * links.scale, links.floor_bps)


def moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Return the mean [L] of each value and those that follow it, in a circle.

    Args:
        values: [L]
        window: values in a mean, the first included; at most L count.
    """
    window = min(window, len(values))
    total = np.concatenate([[0.0], np.cumsum(np.concatenate([values, values[: window - 1]]))])
    return np.maximum(total[window:] - total[:-window], 0.0) / window


def _traces(links: TraceLinks, slot_s: float, source: Source) -> tuple[list[Trace], tuple[str, ...]]:
    names, notes = links.files, ()
    missing = _missing(names, source.folder)
    if missing and links.otherwise:
        names = links.otherwise
        notes = (f"links follow {', '.join(names)}, as {missing} is not there (set {DATA_VARIABLE} to its folder)",)
        missing = _missing(names, source.folder)
    if missing:
        raise source.error(
            ("links", "files"),
            f"no file {short_repr(missing)} beside the scenario, in {DATA_VARIABLE} or among those shipped",
        )
    paths = [find_file(name, source.folder) for name in names]
    traces = [trace for path in paths if isinstance(path, Path) for trace in load_traces(path).values()]
    if max(trace.period_s for trace in traces) > _MAX_TRACE_SLOTS * slot_s:
        raise source.error(("slot_s",), f"a trace has more than {_MAX_TRACE_SLOTS:,} slots of {slot_s:g} s")
    return traces, notes


def _missing(names: Sequence[str], folder: Path | None) -> str | None:
    return next((name for name in names if find_file(name, folder) is None), None)


def _powers_w(spec: BaseScenario, devices: int) -> np.ndarray:
    """Return the transmission power [U] of each device."""
    return np.repeat([d.transmit_power_w for d in spec.devices], [d.count for d in spec.devices])[:devices]


def _place_devices(links: RadioLinks, power_w: np.ndarray, servers: int, rng: np.random.Generator) -> np.ndarray:
    """Return the signal-to-noise ratio [G, U, N] of devices and servers placed uniformly on the disc."""
    radius_m = links.diameter_m / 2
    devices = _disc_positions(radius_m, (links.placements, len(power_w), 1), rng)
    others = _disc_positions(radius_m, (links.placements, 1, servers), rng)
    distance_km = np.maximum(np.abs(devices - others), links.nearest_m) / 1e3
    gain = radio.from_db(-radio.path_loss_db(distance_km))
    noise_w_per_hz = float(radio.watts_of_dbm(links.noise_dbm_per_hz))
    return np.asarray(radio.signal_to_noise(power_w[:, None], gain, links.bandwidth_hz, noise_w_per_hz))


def _disc_positions(radius_m: float, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return positions as complex numbers, uniform over the area."""
    return radius_m * np.sqrt(rng.random(shape)) * np.exp(2j * np.pi * rng.random(shape))

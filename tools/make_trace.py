"""Write the bandwidth traces that ship with coinfer; the same command gives the same file.

    python tools/make_trace.py

Synthetic, no measurement: the logarithm of the rate is a first-order Gauss-Markov process around a median, and now and
then a fade divides the rate for a few seconds. Spread and memory were chosen to resemble public LTE and 3G traces
(deviation of the log rate 0.25 to 1.5, correlation about 0.3 to 0.5 after one second).
"""

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coinfer.resources import TRACES
from coinfer.traces import COLUMNS
from coinfer.units import BITS_PER_BYTE, MEGA

SEED = 20240607
STEP_S = 0.2
DURATION_S = 300.0
LOWEST_BPS, HIGHEST_BPS = 0.5 * MEGA, 60 * MEGA


class Cell(NamedTuple):
    """How a device sees one base station."""

    median_bps: float
    log_deviation: float
    memory_s: float
    """Time in which the correlation of the log rate falls to 1/e."""
    fade_every_s: float
    """Mean time between fades."""
    fade_s: float
    """Mean length of a fade."""
    fade_depth: float
    """A fade divides the rate by this."""


CELLS = {
    "near": Cell(24 * MEGA, 0.50, 3.0, 12.0, 3.0, 12.0),
    "mid": Cell(12 * MEGA, 0.60, 2.5, 12.0, 3.0, 8.0),
    "far": Cell(6 * MEGA, 0.65, 2.0, 15.0, 2.5, 5.0),
}


def rates_bps(cell: Cell, steps: int, rng: np.random.Generator) -> np.ndarray:
    """[steps] the link rate over time."""
    correlation = np.exp(-STEP_S / cell.memory_s)
    noise = rng.standard_normal(steps) * np.sqrt(1 - correlation**2)
    state, log_rate = rng.standard_normal(), np.empty(steps)
    for step in range(steps):
        state = correlation * state + noise[step]
        log_rate[step] = state
    rates = (
        cell.median_bps * np.exp(cell.log_deviation * log_rate) / np.where(_fades(cell, steps, rng), cell.fade_depth, 1)
    )
    return np.clip(rates, LOWEST_BPS, HIGHEST_BPS)


def _fades(cell: Cell, steps: int, rng: np.random.Generator) -> np.ndarray:
    """[steps] whether a fade is on: exponential gaps, then exponential lengths."""
    fading, at_s = np.zeros(steps, bool), 0.0
    while at_s < steps * STEP_S:
        start_s = at_s + rng.exponential(cell.fade_every_s)
        at_s = start_s + rng.exponential(cell.fade_s)
        fading[int(start_s / STEP_S) : int(at_s / STEP_S)] = True
    return fading


def text() -> str:
    """The file's content."""
    steps = round(DURATION_S / STEP_S)
    lines = [",".join(COLUMNS)]
    for index, (name, cell) in enumerate(CELLS.items()):
        rates = rates_bps(cell, steps, np.random.default_rng([SEED, index])) / BITS_PER_BYTE
        lines += [f"{name},{step * STEP_S:.1f},{rate:.0f}" for step, rate in enumerate(rates)]
    return "\n".join(lines) + "\n"


def write(path: Path = TRACES) -> None:
    """Writes the compressed file, without a time stamp in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text().encode(), mtime=0))


if __name__ == "__main__":
    write()
    print(f"wrote {TRACES}")

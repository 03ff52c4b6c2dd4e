"""Which options can be best at all; the others need not be looked at again.

Three rules. `hull` (CDLP, CIAS-PnO: Xu et al., IJSEKE 2023) keeps each option that some link rate makes the fastest of
all that are at least as accurate, if no other task is there. `dominated` keeps each option that no other equals or
beats in everything: accuracy, bits to send, time on the device, time on every server. It keeps more, and loses nothing
under any load and for any objective. `near-best` adds to the hull what is needed to be within `TOLERANCE` of the
fastest behind a queue, too: a device prepares every segment of every option, so an option costs it memory and a later
start. Of ResNet-50's options 3 are on the hull, which behind a queue cost a request up to 28 % more than the best of
all; 8 are near-best and cost it up to 5 %; 21 are not dominated.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from coinfer.options.table import Options

Rule = Literal["hull", "near-best", "dominated", "none"]
TOLERANCE = 0.05
"""Share of the least latency that `near-best` gives up at most, in the states that it looks at."""
SPEED_RATIOS = np.geomspace(1 / 4, 64, 25)
"""How many times faster than the device a server may be whose speed is unknown."""
_KNOWN_SPEED = np.ones(1)


def prune(options: Options, rule: Rule = "hull", *, speed_ratios: np.ndarray = _KNOWN_SPEED) -> Options:
    """Return only the options that can be best.

    Args:
        options: O of them; an option that stays on the device always remains.
        rule: as in `useful_mask`.
        speed_ratios: as in `useful_mask`.
    """
    return options.take(useful_mask(options, rule, speed_ratios=speed_ratios))


def useful_mask(
    options: Options, rule: Rule, *, speed_ratios: np.ndarray = _KNOWN_SPEED, other_cases: Sequence[Options] = ()
) -> np.ndarray:
    """Return [O] true for each option that can be best by one of the rules above, or that stays on the device.

    Args:
        options: O of them.
        rule: `none` keeps all.
        speed_ratios: [R] how many times faster than the table says each server may be; `dominated` needs none, as it
            holds for all speeds.
        other_cases: the same options with the figures of other cases, all of which count under `dominated`; for
            example with those of the mean request if some leave at an early exit.
    """
    if rule == "none":
        return np.ones(len(options.bits), dtype=bool)
    if rule == "dominated":
        costs = np.unique(np.column_stack([_costs(view) for view in (options, *other_cases)]), axis=1)
        return ~dominated_mask(costs) | options.is_local
    server_s = (options.server_s.T / speed_ratios[:, None, None]).reshape(-1, len(options.bits))
    compute_s = np.unique(options.device_s + server_s, axis=0)
    hull = hull_mask(compute_s, options.upload_bits, options.accuracy) | options.is_local
    return hull if rule == "hull" else hull | _queue_mask(options, server_s, hull)


def _queue_mask(options: Options, server_s: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return [O] true for the options of `mask` and for those that are needed behind queues.

    They bring the fastest of each accuracy to within `TOLERANCE` of the fastest of all that are at least as accurate,
    over uploads and queues from far shorter to far longer than the computation.

    Args:
        server_s: [S, O] service times, a row for each server and each speed that it may have.
        mask: [O] true for options that remain in any case.
    """
    alone_s = max(float(options.device_s[options.is_local].max()), np.finfo(float).tiny)
    free_s = alone_s * np.concatenate([[0.0], np.geomspace(1 / 256, 4, 21)])  # when the server is free
    largest_bits = max(float(options.upload_bits.max()), 1.0)
    s_per_bit = alone_s / largest_bits * np.geomspace(1 / 256, 256, 33)
    ready_s = options.device_s + options.upload_bits * s_per_bit[:, None]  # [R, O]
    start_s = np.maximum(ready_s[:, None], free_s[:, None]).reshape(-1, len(options.bits))  # [R F, O]
    mask = mask.copy()
    for service_s in server_s:
        latency_s = np.where(options.is_local, options.device_s, start_s + service_s)
        for accuracy in np.unique(options.accuracy)[::-1]:
            enough_s = np.where(options.accuracy >= accuracy, latency_s, np.inf)
            near = enough_s <= (1 + TOLERANCE) * enough_s.min(axis=1, keepdims=True)
            uncovered = near[~near[:, mask].any(axis=1)]
            while len(uncovered):
                best = int(uncovered.sum(axis=0).argmax())
                mask[best] = True
                uncovered = uncovered[~uncovered[:, best]]
    return mask


def _costs(options: Options) -> np.ndarray:
    """Return the columns [O, 3 + N] in which less is better."""
    return np.column_stack([-options.accuracy, options.upload_bits, options.device_s, options.server_s])


def dominated_mask(costs: np.ndarray) -> np.ndarray:
    """Return [O] true for each row that another row makes superfluous.

    That other row is nowhere larger, and is smaller somewhere, or equal and earlier.

    Args:
        costs: [O, C], less is better.
    """
    no_worse = (costs[:, None] <= costs[None]).all(axis=-1)
    better = (costs[:, None] < costs[None]).any(axis=-1)
    earlier = np.arange(len(costs))[:, None] < np.arange(len(costs))
    return np.asarray((no_worse & (better | earlier)).any(axis=0))


def hull_mask(compute_s: np.ndarray, upload_bits: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Return [O] true for each option that some link rate makes the fastest of all that are at least as accurate.

    It has the least `compute_s + upload_bits x` in some row of `compute_s`, for some x >= 0 in seconds per bit. Each
    rival is better only above or only below one x, so an option wins between the largest of the lower limits and the
    smallest of the upper ones.

    Args:
        compute_s: [S, O] time on device and server together, a row for each case.
        upload_bits: [O]
        accuracy: [O]
    """
    rival = accuracy >= accuracy[:, None]  # [O, O] of row and column: the column may replace the row
    same = upload_bits == upload_bits[:, None]
    earlier = np.arange(len(accuracy)) < np.arange(len(accuracy))[:, None]
    mask = np.zeros(len(accuracy), dtype=bool)
    for times_s in compute_s:
        ahead_s = times_s - times_s[:, None]  # how much later the column is without the upload
        beaten = rival & same & ((ahead_s < 0) | ((ahead_s == 0) & ((accuracy > accuracy[:, None]) | earlier)))
        with np.errstate(divide="ignore", invalid="ignore"):
            tie = ahead_s / (upload_bits[:, None] - upload_bits)
        high = np.where(rival & (upload_bits < upload_bits[:, None]), tie, np.inf).min(axis=1)
        low = np.where(rival & (upload_bits > upload_bits[:, None]), tie, 0.0).max(axis=1)
        mask |= ~beaten.any(axis=1) & (low < high)
    return mask


def best_only(options: Options, rate_bps: np.ndarray) -> Options:
    """Return two of the most accurate options: the fastest over these links, and the fastest that stays on the device.

    Args:
        options: O of them.
        rate_bps: [N] rate to each server; no other task uses link or server.
    """
    top = options.accuracy == options.accuracy.max()
    fastest_s = np.where(top, options.latency_s(rate_bps).min(axis=1), np.inf)
    alone_s = np.where(top & options.is_local, options.device_s, np.inf)
    return options.take(np.unique([np.where(options.is_local, np.inf, fastest_s).argmin(), alone_s.argmin()]))

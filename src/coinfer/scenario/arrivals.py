"""How many requests arrive in a slot, as a table: one uniform random number looks the count up.

Each slot has a level of load, and each level a distribution of counts. Steady processes have one level; a measured
workload has many, and every world starts at another point of it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from coinfer.errors import short_repr
from coinfer.scenario.load import Source
from coinfer.scenario.recorded import build_recorded
from coinfer.scenario.spec import BaseScenario
from coinfer.scenario.spec_arrivals import (
    FixedArrivals,
    LognormalArrivals,
    MarkovArrivals,
    MeasuredArrivals,
    PoissonArrivals,
    RecordedArrivals,
)
from coinfer.scenario.traces import DATA_VARIABLE, find_file, load_workload
from coinfer.scenario.world import RecordedTasks
from coinfer.traces import TraceError

MAX_LEVELS = 256
MAX_LOST = 0.01
"""Largest share of arrivals that may find no place in a slot."""
MIN_TASKS = 0.01
"""Least mean number of tasks in an episode."""
MARKOV_STAYS = 4096
"""States that a Markov-modulated history passes through before it begins again."""
MAX_SLOTS = 10_000_000
"""Slots of a measured workload at most."""


class Arrivals(NamedTuple):
    """The distribution of counts: K tasks in a slot, R levels, L slots until the workload starts again."""

    cdf: np.ndarray
    """[R, K] probability that at most 0 .. K - 1 tasks arrive; the count is the number of entries at or below a uniform
    number, so at most K."""
    level: np.ndarray
    """[L] level of each slot."""
    offered: float
    """Mean number of tasks that arrive in a slot, those beyond K included."""
    recorded: RecordedTasks | None = None
    """Tasks in the place of drawn ones; then the distribution only tells how many these are."""

    @property
    def mean(self) -> float:
        """Return the mean number of tasks in a slot, without those beyond K."""
        return float((1 - self.cdf).sum(axis=1)[self.level].mean())

    @property
    def lost(self) -> float:
        """Return the share of the tasks that find no place in a slot."""
        return max(0.0, 1 - self.mean / self.offered) if self.offered else 0.0


def build_arrivals(spec: BaseScenario, source: Source) -> tuple[Arrivals, tuple[str, ...]]:
    """Return the table of a scenario's arrivals, and notes if some find no place or hardly any arrive.

    Args:
        spec: says how requests arrive, and how many a slot holds.
        source: locates files and errors.

    Raises:
        ScenarioError: if too many find no place, next to none arrive, or a workload cannot be used.
    """
    if isinstance(spec.arrivals, RecordedArrivals):
        tasks, after = build_recorded(spec, spec.arrivals.file, source)
        return recorded_arrivals(tasks), (f"{after} requests come after the last slot",) if after else ()
    arrivals = _table(spec, source, spec.tasks_per_slot)
    return arrivals, (*_check_rare(spec, source, arrivals), *_check_lost(spec, source, arrivals))


def _check_lost(spec: BaseScenario, source: Source, arrivals: Arrivals) -> Iterator[str]:
    """Yield a note if some arrivals find no place in a slot; refuse a scenario in which many do not."""
    max_tasks = spec.tasks_per_slot
    if arrivals.lost > MAX_LOST:
        counts = (2**i for i in range(13))
        enough = next((count for count in counts if _table(spec, source, count).lost <= MAX_LOST / 10), 4096)
        raise source.error(
            ("tasks_per_slot",),
            f"got {max_tasks}, but {arrivals.lost:.1%} of {arrivals.offered:.3g} requests a slot would find no place; "
            f"{enough} is enough",
        )
    if arrivals.lost > MAX_LOST / 10:
        yield f"{arrivals.lost:.2%} of the requests find no place in a slot (tasks_per_slot {max_tasks})"


def _check_rare(spec: BaseScenario, source: Source, arrivals: Arrivals) -> Iterator[str]:
    """Yield a note if most episodes have no task; refuse a scenario in which hardly any ever has one."""
    tasks = arrivals.offered * spec.slots
    episode = f"{tasks:.3g} requests come in an episode on average ({spec.slots} slots of {spec.slot_s:g} s)"
    if tasks < MIN_TASKS:
        raise source.error(
            ("arrivals",), f"only {episode}, expected at least {MIN_TASKS:g}; raise slots, slot_s or the arrivals"
        )
    if tasks < 1:
        yield f"{episode}, so most episodes have none"


def _table(spec: BaseScenario, source: Source, max_tasks: int) -> Arrivals:
    match spec.arrivals:
        case FixedArrivals() as settings:
            return fixed_arrivals(settings.tasks, max_tasks)
        case PoissonArrivals() as settings:
            return poisson_arrivals(settings.rate_per_s * spec.slot_s, max_tasks)
        case LognormalArrivals() as settings:
            return lognormal_arrivals(settings.mean, settings.variance, spec.slot_s / settings.per_s, max_tasks)
        case MeasuredArrivals() as settings:
            return _workload_table(settings, spec.slot_s, source, max_tasks)
        case MarkovArrivals() as settings:
            return markov_arrivals(settings.rates_per_s, settings.stay_s, spec.slot_s, max_tasks, spec.seed)
        case RecordedArrivals():
            raise AssertionError("recorded arrivals are not drawn from a table")


def _workload_table(settings: MeasuredArrivals, slot_s: float, source: Source, max_tasks: int) -> Arrivals:
    name = settings.file
    path = find_file(name, source.folder)
    if path is None:
        where = f"beside the scenario, in {DATA_VARIABLE} or among those shipped"
        raise source.error(("arrivals", "file"), f"no file {short_repr(name)} {where}")
    try:
        workload = load_workload(path, settings.series).window(settings.start_s, settings.length_s)
    except TraceError:
        raise
    except ValueError as error:
        raise source.error(("arrivals", "start_s"), f"{name} {error}") from None
    end_s = settings.start_s + workload.period_s
    if workload.period_s < slot_s:
        raise source.error(
            ("arrivals", "length_s"),
            f"{name} has no whole slot of {slot_s:g} s between {settings.start_s:g} s and {end_s:g} s",
        )
    if workload.period_s > MAX_SLOTS * slot_s:
        raise source.error(
            ("arrivals", "length_s"),
            f"{name} has more than {MAX_SLOTS:,} slots of {slot_s:g} s; take a part with length_s",
        )
    return workload_arrivals(superpose(workload.per_bin(slot_s), settings.copies) * settings.scale, max_tasks)


def recorded_arrivals(tasks: RecordedTasks) -> Arrivals:
    """Return arrivals of tasks that were recorded.

    Args:
        tasks: of each slot.
    """
    counts = tasks.task_mask.sum(axis=1)
    cdf = (counts[:, None] <= np.arange(tasks.task_mask.shape[1])).mean(axis=0)
    return Arrivals(cdf[None], np.zeros(1, dtype=np.int64), float(counts.mean()), tasks)


def fixed_arrivals(count: int, max_tasks: int) -> Arrivals:
    """Return arrivals of the same number in every slot.

    Args:
        count: of tasks.
        max_tasks: places in a slot, K.
    """
    return Arrivals((np.arange(max_tasks) >= count)[None].astype(float), np.zeros(1, dtype=np.int64), float(count))


def poisson_arrivals(mean: float, max_tasks: int) -> Arrivals:
    """Return arrivals that are independent of each other.

    Args:
        mean: tasks in a slot.
        max_tasks: places in a slot, K.
    """
    return _levels(np.array([mean]), np.zeros(1, dtype=np.int64), max_tasks)


def lognormal_arrivals(mean: float, variance: float, per_unit: float, max_tasks: int) -> Arrivals:
    """Return Poisson arrivals whose rate is lognormal in each slot (CDO-DSAC, SEKE 2023, section V.A).

    Args:
        mean: of the rate itself, not of its logarithm.
        variance: of the rate itself.
        per_unit: tasks in a slot for each unit of rate.
        max_tasks: places in a slot, K.
    """
    log_variance = np.log1p(variance / mean**2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(96)
    rates = np.exp(np.log(mean) - log_variance / 2 + np.sqrt(log_variance) * nodes)
    cdf = weights / weights.sum() @ special.pdtr(np.arange(max_tasks), per_unit * rates[:, None])
    return Arrivals(cdf[None], np.zeros(1, dtype=np.int64), mean * per_unit)


def markov_arrivals(
    rates_per_s: Sequence[float], stay_s: float, slot_s: float, max_tasks: int, seed: int = 0
) -> Arrivals:
    """Return Poisson arrivals whose rate follows a Markov chain in continuous time, sampled where slots begin.

    Args:
        rates_per_s: rate in each state.
        stay_s: mean time in a state.
        slot_s: length of a slot.
        max_tasks: places in a slot, K.
        seed: of the chain's one history.
    """
    rng, states = np.random.default_rng((seed, len(rates_per_s))), len(rates_per_s)
    steps = rng.integers(1, states, MARKOV_STAYS) if states > 1 else np.zeros(MARKOV_STAYS, dtype=int)
    ends = np.cumsum(rng.exponential(stay_s / slot_s, MARKOV_STAYS))
    slots = np.arange(min(MAX_SLOTS, max(1, int(ends[-1]))))
    level = (steps.cumsum() % states)[np.minimum(np.searchsorted(ends, slots, side="right"), MARKOV_STAYS - 1)]
    return _levels(np.array(rates_per_s) * slot_s, level.astype(np.int64), max_tasks)


def superpose(counts: np.ndarray, copies: int) -> np.ndarray:
    """Return the sum [L] of several copies of a workload that start at evenly spaced points of it.

    Args:
        counts: [L] requests in each slot.
        copies: at least 1.
    """
    starts = np.unique(np.linspace(0, len(counts), copies, endpoint=False).astype(int), return_counts=True)
    return np.sum([count * np.roll(counts, start) for start, count in zip(*starts, strict=True)], axis=0)


def workload_arrivals(means: np.ndarray, max_tasks: int) -> Arrivals:
    """Return Poisson arrivals around a measured workload.

    Args:
        means: [L] requests in each slot of the workload.
        max_tasks: places in a slot, K.
    """
    levels, level = np.unique(means, return_inverse=True)
    if len(levels) > MAX_LEVELS:  # closer together where loads are small
        levels = np.linspace(0, np.sqrt(levels[-1]), MAX_LEVELS) ** 2
        level = _nearest(levels, means)
    return _levels(levels, level.astype(np.int64), max_tasks, float(means.mean()))


def _nearest(edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    above = np.clip(np.searchsorted(edges, values), 1, len(edges) - 1)
    return np.where(values - edges[above - 1] < edges[above] - values, above - 1, above)


def _levels(means: np.ndarray, level: np.ndarray, max_tasks: int, offered: float | None = None) -> Arrivals:
    cdf = special.pdtr(np.arange(max_tasks), means[:, None])
    return Arrivals(cdf, level, float(means[level].mean()) if offered is None else offered)

"""What not knowing the future costs the planner: its latency over that of a clairvoyant, split into causes.

    python benchmarks/regret.py                        # replays, shipped traces
    python benchmarks/regret.py --data FOLDER          # and measured ones, one <family>.csv.gz each
    python benchmarks/regret.py --data FOLDER --real   # and with real processes

A replay runs the product's estimators and planner on a virtual clock (`replay.py`); the clairvoyant knows links and
typical times in advance. With `--real`, a device and three edge servers as processes answer requests too
(`regret_live.py`), `--seconds` for each network on the first three links of each family. `regret_half` is half of the
95 % interval over sets of three links. A cause's share is what the decisions would have gained had its estimate alone
been the truth, so shares need not sum up. `--ablate` leaves out one part of the planner at a time. Writes
benchmarks/results/regret.json.
"""

import itertools
import json
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import harness
import numpy as np
import replay
from regret_live import measured

from coinfer.evaluate.statistics import interval
from coinfer.graph.open_model import open_model
from coinfer.runtime.device import forecast, link_estimate, server_pool
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.planning.planner import Planner
from coinfer.runtime.profiling import profile_for
from coinfer.traces import Trace, load_traces
from coinfer.types import DEVICE

MODELS = ("resnet50", "alexnet")
DEVICE_SLOWDOWN, SERVER_SLOWDOWNS = 6.0, (2.5, 1.5, 1.0)
SPREAD = 0.06
"""Standard deviation of the logarithm of a run's time in replays, about that of real runs on an idle machine."""
CAUSES: tuple[str, ...] = ("all", "link", "server", "device")
ABLATED_SETS = 3
"""Of each family, for each part that is left out."""
LONGEST_S = 10.0
"""What a decision may cost at most in the split into causes: a dead link would take for ever."""
ABLATIONS: dict[str, tuple[tuple[Any, str, Any], ...]] = {
    "all": (),
    "2 s mean": ((link_estimate, "HALF_LIFE_S", 2.0),),
    "last transfer only": ((link_estimate, "HALF_LIFE_S", 0.01),),
    "probes every 0.5 s": ((server_pool, "PROBE_INTERVAL_S", 0.5),),
    "small probes": ((server_pool, "PROBE_BYTES", (1_000, 64_000)),),
    "probes every 0.15 s": ((server_pool, "PROBE_INTERVAL_S", 0.15),),
    "patience for all replies": ((forecast, "PATIENCE_QUANTILE", 1.0), (forecast, "PATIENCE_RANGE", (3.0, 3.0))),
}


def planner_for(model: str) -> Planner:
    """Return the planner of a device that knows three servers."""
    graph = open_model(model)
    config = DeviceConfig(slowdown=DEVICE_SLOWDOWN, servers=["a:1", "b:1", "c:1"])
    return Planner(graph, profile_for(graph), config)


def families(given: Namespace, triples: int) -> Iterator[tuple[str, Sequence[Sequence[Trace]]]]:
    """Yield name and sets of three traces, for three links, of the shipped traces and of each file of the folder."""
    files = sorted(given.data.glob("*.csv.gz")) if given.data else []
    for name, path in (("shipped", None), *((file.name.removesuffix(".csv.gz"), file) for file in files)):
        if given.families and name not in given.families:
            continue
        traces = list((load_traces(path) if path else load_traces()).values())
        groups = [traces[i : i + 3] for i in range(0, len(traces) - 2, 3)]
        yield name, groups[:triples]


def mean_s(run: replay.Replay) -> float:
    return float(np.mean([request.latency_s for request in run.requests]))


def causes(run: replay.Replay) -> dict[str, float]:
    """Return the seconds that each wrong estimate cost the decisions of a run, and all of them together."""
    stays, lost = run.world.upload_bits == 0, dict.fromkeys(CAUSES, 0.0)
    for request in run.requests:
        assert request.believed is not None
        assert request.true is not None
        true_s, true, believed = np.minimum(request.true_s, LONGEST_S), request.true, request.believed
        repaired = {
            "all": true,
            "link": believed._replace(upload_s=true.upload_s, link_free_s=true.link_free_s),
            "server": believed._replace(service_s=true.service_s, server_free_s=true.server_free_s),
            "device": believed._replace(device_s=true.device_s),
        }
        for cause, parts in repaired.items():
            better_s = true_s.flat[int(parts.latency_s(stays).argmin())]
            lost[cause] += float(true_s[request.place] - better_s)
    return lost


def fixed_means_s(world: replay.World, planner: Planner) -> float:
    """Return the least mean latency of all fixed choices."""
    choices = [
        (option, server)
        for option, bits in enumerate(world.upload_bits)
        for server in (range(len(world.traces)) if bits else (DEVICE,))
    ]
    runs = (replay.Replay(world, planner, replay.always(*choice), False, False) for choice in choices)
    return min(map(mean_s, runs))


def replayed(
    planner: Planner, groups: Sequence[Sequence[Trace]], seconds: float, *, references: bool = True
) -> dict[str, Any]:
    """Return the figures of a family: latencies, regret, prediction error, and the split into causes."""
    rows, lost, requests = [], dict.fromkeys(CAUSES, 0.0), 0
    errors = list[float]()
    for traces in groups:
        world = replay.world_of(planner, traces, DEVICE_SLOWDOWN, SERVER_SLOWDOWNS, seconds)
        world = replay.shaken(world, SPREAD, 0)
        run = replay.Replay(world, planner, replay.by_planner)
        clairvoyant = replay.Replay(world, planner, replay.by_clairvoyant, False, False)
        known = replay.Replay(world, planner, replay.by_present_rate, False, False)
        fixed_s = fixed_means_s(world, planner) if references else np.nan
        rows.append((mean_s(run), mean_s(clairvoyant), mean_s(known), fixed_s))
        errors.append(float(np.median([abs(r.predicted_s / r.latency_s - 1) for r in run.requests])))
        requests += len(run.requests)
        for cause, seconds_lost in causes(run).items():
            lost[cause] += seconds_lost
    by_set = np.array(rows)
    own, best, known, fixed = by_set.mean(axis=0)
    half = interval((by_set[:, 0] - by_set[:, 1]) / best).half
    split = {cause: round(float(value / requests / best), 4) for cause, value in lost.items()}
    return {
        "planner_s": round(float(own), 4),
        "clairvoyant_s": round(float(best), 4),
        "regret": round(float(own / best - 1), 4),
        "regret_half": round(half, 4) if len(rows) > 1 else None,
        "sets": len(rows),
        "present_rates_known": round(float(known / best - 1), 4),
        "over_best_fixed": round(float(own / fixed - 1), 4) if references else None,
        "prediction_error": round(float(np.mean(errors)), 4),
        "lost_to": split,
        "requests": requests,
    }


@contextmanager
def changed(values: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Give constants of modules other values for a while."""
    before = [(module, name, getattr(module, name)) for module, name, _ in values]
    try:
        for module, name, value in values:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def show(what: str, found: Mapping[str, Any]) -> None:
    fixed = "" if found["over_best_fixed"] is None else f", {found['over_best_fixed']:+.1%} over the best fixed choice"
    half = "" if found["regret_half"] is None else f" ± {found['regret_half']:.1%}"
    harness.CONSOLE.print(
        f"{what}: {found['planner_s'] * 1e3:.0f} ms, {found['regret']:+.1%}{half} over the clairvoyant{fixed}; "
        f"predictions err by {found['prediction_error']:.1%}; lost to {found['lost_to']}",
        soft_wrap=True,
    )


def replays(given: Namespace, models: Sequence[str], seconds: float, triples: int) -> list[dict[str, Any]]:
    """Return the rows of all networks and families."""
    rows = []
    for model in models:
        planner = planner_for(model)
        for family, groups in families(given, triples):
            found = replayed(planner, groups, seconds)
            show(f"{model}, {family}", found)
            rows.append({"model": model, "family": family} | found)
    return rows


def ablations(given: Namespace, model: str, seconds: float, triples: int) -> list[dict[str, Any]]:
    """Return a row for each part that is left out: mean and largest regret over the families."""
    planner, rows = planner_for(model), []
    for name, values in ABLATIONS.items():
        with changed(values):
            every = families(given, triples)
            found = [replayed(planner, groups, seconds, references=False) for _, groups in every]
        regrets = [one["regret"] for one in found]
        row = {"left": name, "mean_regret": round(float(np.mean(regrets)), 4), "largest_regret": max(regrets)}
        row["prediction_error"] = round(float(np.mean([one["prediction_error"] for one in found])), 4)
        harness.CONSOLE.print(json.dumps(row))
        rows.append(row)
    return rows


def main() -> None:
    options = harness.parser(__doc__, "regret")
    options.add_argument("--data", type=Path, help="folder with measured traces; without it only the shipped ones")
    options.add_argument("--seconds", type=float, default=60.0, help="length of a run")
    options.add_argument("--triples", type=int, default=20, help="sets of three links of each family")
    options.add_argument("--real", action="store_true", help="also measure with real processes")
    options.add_argument("--families", nargs="+", help="only these, such as shipped or ucc_5g_production")
    options.add_argument("--ablate", action="store_true", help="also leave out one part of the planner at a time")
    options.add_argument("--only", nargs="+", default=MODELS, help="networks")
    given = options.parse_args()
    seconds, triples = (1.0, 1) if given.quick else (given.seconds, given.triples)
    models = ("alexnet-cifar",) if given.quick else given.only
    record: dict[str, Any] = {"replays": replays(given, models, seconds, triples)}
    if given.ablate:
        record["ablations"] = ablations(given, models[0], seconds, min(triples, ABLATED_SETS))
    if given.real:
        record["real"] = [
            measured(model, family, groups[0], seconds, DEVICE_SLOWDOWN, SERVER_SLOWDOWNS)
            for model, (family, groups) in itertools.product(models, families(given, 1))
        ]
    harness.write(given, seconds=seconds, **record)


if __name__ == "__main__":
    main()

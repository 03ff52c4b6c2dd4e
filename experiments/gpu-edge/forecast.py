"""What a learned forecast of demand gives the rule that remembers it, in `tight-memory`.

    python experiments/gpu-edge/forecast.py tune  [--candidates 45]              # about 10 minutes of one core
    python experiments/gpu-edge/forecast.py train [--learners 5]                 # about 15 minutes
    python experiments/gpu-edge/forecast.py judge [--seeds 10] [--late 5]

`tune` tries the same weights for the rule with what was, with a forecast, and with what will be, on eight seeds from
10,000 on, and keeps the best of each in results/forecast_weights.json; a candidate's time is that of the forecast, and
another one is drawn for the memory of the rule that remembers. `train` learns the forecasts, into runs/forecast.
`judge` plays everyone on seeds from 100 on, writes results/forecast.json and results/forecast.png, and prints a table;
with `--late` everyone sees the servers so many slots late, and the record is results/forecast-late.json.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gaps import CONSOLE, FIRST, MOVING, WORLDS
from matplotlib.figure import Figure
from rich.progress import track
from rich.table import Table
from torch import Tensor

from coinfer.envs import offload
from coinfer.evaluate import serving_oracles
from coinfer.evaluate.oracles import Oracle
from coinfer.evaluate.serving_slots import LOADS, demand_clairvoyant, demand_greedy, forecast
from coinfer.evaluate.simulate import run_policy
from coinfer.evaluate.statistics import interval
from coinfer.physics import random
from coinfer.policies.heuristics.demand import FADING_S, DemandWeights
from coinfer.policies.learned.forecast.net import DemandForecast
from coinfer.rl.algorithms.forecast import ForecastSettings, examples_of, fit
from coinfer.scenario.compile import open_world

RESULTS = Path(__file__).resolve().parent / "results"
RUNS = Path("runs") / "forecast"
HORIZONS_S = (2.5, 4.0, 6.0)
PAST, COMING, FORECAST = "what was", "what will be", "a forecast"
AT_HOME = {PAST: "what was, loads at home", FORECAST: "a forecast, loads at home"}
KNOWS = (PAST, FORECAST, COMING, *AT_HOME.values())
FULL = "forecast"
FULL_AT_HOME = "forecast, loads at home"


class Alone(DemandForecast):
    """Each network's demand is forecast from its own past only, by one small network for all of them."""

    def __init__(self, networks: int, hidden: tuple[int, ...], weights: DemandWeights, scale: float):
        super().__init__(1, hidden, weights, scale)

    def forward(self, faded: Tensor) -> Tensor:
        apart = faded.transpose(1, 2).flatten(0, 1)[..., None]
        return super().forward(apart).reshape(len(faded), -1)


class Brief(DemandForecast):
    """It sees the demand of the last second only, as a rule does that remembers one time."""

    def forward(self, faded: Tensor) -> Tensor:
        return super().forward(faded * torch.tensor([float(time_s == 1.0) for time_s in FADING_S])[:, None])


VARIANTS: dict[str, tuple[type[DemandForecast], tuple[int, ...]]] = {
    FULL: (DemandForecast, (128, 128)),
    "linear": (DemandForecast, ()),
    "one time": (Brief, (128, 128)),
    "each network alone": (Alone, (32, 32)),
}


def changed(**changes: float) -> Any:
    return open_world(WORLDS[MOVING].preset, {**WORLDS[MOVING].changes, **changes}).world


def learn(variant: str, learner: int, settings: ForecastSettings) -> DemandForecast:
    """Return a trained forecast."""
    kind, hidden = VARIANTS[variant]
    tables, seed = offload.load(changed()), random.key(torch.tensor(0), learner)
    examples = examples_of(tables, random.key(seed, torch.arange(settings.episodes)), settings)
    torch.manual_seed(learner)
    net = kind(examples.coming.shape[-1], hidden, settings.weights, float(examples.coming.mean()))
    draws = torch.Generator().manual_seed(learner)
    for update, loss in fit(net, examples, settings, draws):
        CONSOLE.print(f"{variant} {learner}: {update} of {settings.updates}, loss {loss:.3f}", end="\r")
    CONSOLE.print()
    return net


def oracle_of(net: DemandForecast, weights: DemandWeights) -> Oracle:
    @torch.no_grad()
    def demand(faded: np.ndarray) -> np.ndarray:
        return net.demand(torch.from_numpy(faded)).numpy()

    return forecast(demand, weights)


def tune(candidates: int, seeds: int) -> None:
    """Try weights, and write all that was tried with the best for each kind of knowledge."""
    draws, world, tried = np.random.default_rng(5), changed(), []
    settings = ForecastSettings(updates=1500, episodes=600)
    nets = {s: learn(FULL, 99, replace(settings, weights=replace(settings.weights, memory_s=s))) for s in HORIZONS_S}
    for number in track(range(candidates), "candidates", console=CONSOLE):
        low, high = np.log([1.5, 3.0, 0.02, 0.01]), np.log([10.0, 25.0, 0.2, 0.2])
        gain_s, loss_s, spare, queue_s = np.exp(draws.uniform(low, high)).tolist()
        memory_s = float(np.exp(draws.uniform(0.0, np.log(6.0))))
        ahead = DemandWeights(HORIZONS_S[number % len(HORIZONS_S)], gain_s, loss_s, spare, queue_s)
        past = replace(ahead, memory_s=memory_s)
        deciders = {
            PAST: (past, demand_greedy(past)),
            FORECAST: (ahead, oracle_of(nets[ahead.memory_s], ahead)),
            COMING: (ahead, demand_clairvoyant(ahead)),
        }
        home, home_ahead = replace(past, loads_at_home=True), replace(ahead, loads_at_home=True)
        deciders |= {
            AT_HOME[PAST]: (home, demand_greedy(home)),
            AT_HOME[FORECAST]: (home_ahead, oracle_of(nets[ahead.memory_s], home_ahead)),
        }
        for who, (weights, oracle) in deciders.items():
            run = run_policy(world, who, seeds, 1, oracle=oracle, first=10_000, warm_up=WORLDS[MOVING].warm_up)
            tried.append({"who": who, "mean_s": float(run.measures["mean_s"].mean()), "weights": asdict(weights)})
    best = {who: min((t for t in tried if t["who"] == who), key=lambda t: t["mean_s"]) for who in KNOWS}
    (RESULTS / "forecast_weights.json").write_text(json.dumps({"best": best, "tried": tried}, indent=1) + "\n")
    for who, one in best.items():
        CONSOLE.print(f"{who}: {1e3 * one['mean_s']:.1f} ms with {one['weights']}")


def best_weights() -> dict[str, DemandWeights]:
    found = json.loads((RESULTS / "forecast_weights.json").read_text())["best"]
    return {who: DemandWeights(**one["weights"]) for who, one in found.items()}


def train(learners: int, settings: ForecastSettings) -> None:
    """Train all variants and keep their networks."""
    RUNS.mkdir(parents=True, exist_ok=True)
    settings = replace(settings, weights=best_weights()[FORECAST])
    for variant in VARIANTS:
        for learner in range(learners if variant == FULL else min(learners, 3)):
            path = RUNS / f"{variant}.{learner}.pt"
            if not path.exists():
                torch.save(learn(variant, learner, settings).state_dict(), path)


def trained(variant: str, weights: DemandWeights) -> list[DemandForecast]:
    nets = []
    kind, hidden = VARIANTS[variant]
    for path in sorted(RUNS.glob(f"{variant}.*.pt")):
        net = kind(changed().edge.models, hidden, weights, 1.0)
        net.load_state_dict(torch.load(path, weights_only=True))
        nets.append(net)
    return nets


def judge(seeds: int, late: int) -> list[dict[str, Any]]:
    """Return the measures of everyone, who sees servers so many slots late."""
    world = changed(staleness_slots=late)
    best = best_weights()
    assert best[FORECAST].memory_s == best[AT_HOME[FORECAST]].memory_s, "the same networks forecast for both"
    everything = changed(staleness_slots=late, **{"servers.0.memory_bytes": 1e11})
    runs: list[tuple[str, int, Any, Oracle]] = [
        ("serving-greedy", 0, world, serving_oracles.serving_greedy),
        ("amortised 0.2", 0, world, serving_oracles.amortised_greedy(0.2)),
        ("demand-greedy", 0, world, demand_greedy(LOADS)),
        ("demand-greedy, weights found here", 0, world, demand_greedy(best[PAST])),
        ("the same, loads at home", 0, world, demand_greedy(best[AT_HOME[PAST]])),
        ("demand-at-home", 0, world, demand_greedy(replace(LOADS, at_home=True))),
        ("the forecast's weights without it", 0, world, demand_greedy(best[FORECAST])),
    ]
    for variant in VARIANTS:
        nets = enumerate(trained(variant, best[FORECAST]))
        runs += [(variant, learner, world, oracle_of(net, best[FORECAST])) for learner, net in nets]
    nets = enumerate(trained(FULL, best[AT_HOME[FORECAST]]))
    runs += [(FULL_AT_HOME, learner, world, oracle_of(net, best[AT_HOME[FORECAST]])) for learner, net in nets]
    runs += [
        ("knows the demand to come", 0, world, demand_clairvoyant(best[COMING])),
        ("memory for all networks", 0, everything, demand_greedy(LOADS)),
    ]
    found = []
    for who, learner, world, oracle in track(runs, "playing", console=CONSOLE):
        run = run_policy(world, who, seeds, 1, oracle=oracle, first=FIRST, warm_up=WORLDS[MOVING].warm_up)
        values = {key: run.measures[key].tolist() for key in ("mean_s", "p95_s", "in_time")}
        found.append({"who": who, "learner": learner, **values})
    return found


RULES = (
    "serving-greedy",
    "amortised 0.2",
    "demand-greedy",
    "demand-greedy, weights found here",
    "the same, loads at home",
    "demand-at-home",
)


def summary(found: list[dict[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
    """Return values by seed, means over learners, and the same of each learner."""
    names = dict.fromkeys(row["who"] for row in found)
    each = {who: np.array([row["mean_s"] for row in found if row["who"] == who]) for who in names}
    late = {who: 1 - np.mean([row["in_time"] for row in found if row["who"] == who]) for who in names}
    return {who: {"each": each[who], "mean_s": each[who].mean(0), "late": late[who]} for who in names}


def table(found: list[dict[str, Any]]) -> Table:
    rows = summary(found)
    best = min(RULES, key=lambda who: rows[who]["mean_s"].mean())
    shown = Table("who decides", "learners", "mean, ms", "beside the best rule", "each learner", "late", title=MOVING)
    for who, row in rows.items():
        mean, gap = interval(row["mean_s"]), interval(row["mean_s"] / rows[best]["mean_s"] - 1)
        learners = row["each"] if len(row["each"]) > 1 else ()
        alone = ", ".join(f"{100 * (one / rows[best]['mean_s'] - 1).mean():+.1f}" for one in learners)
        cells = (f"{1e3 * mean.mean:.1f} ± {1e3 * mean.half:.1f}", f"{100 * gap.mean:+.1f} ± {100 * gap.half:.1f} %")
        shown.add_row(who, str(len(row["each"])), *cells, alone, f"{100 * row['late']:.2f} %")
    return shown


def draw(found: list[dict[str, Any]], path: Path) -> None:
    rows = summary(found)
    names = [who for who in rows if rows[who]["mean_s"].mean() < 0.2]
    means = [interval(1e3 * rows[who]["mean_s"]) for who in names]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    colours = ["tab:blue" if who in {*VARIANTS, FULL_AT_HOME} else "tab:grey" for who in names]
    halves = [one.half for one in means]
    axes.barh(range(len(names)), [one.mean for one in means], xerr=halves, color=colours, capsize=3)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("mean latency, ms (95 % intervals over seeds)")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tune", "train", "judge"))
    parser.add_argument("--candidates", type=int, default=45)
    parser.add_argument("--learners", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--late", type=int, default=0, help="slots")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    steps: dict[str, Callable[[], None]] = {
        "tune": lambda: tune(arguments.candidates, 8),
        "train": lambda: train(arguments.learners, ForecastSettings()),
    }
    if arguments.what in steps:
        steps[arguments.what]()
        return
    found = judge(arguments.seeds, arguments.late)
    output = RESULTS / ("forecast-late.json" if arguments.late else "forecast.json")
    output.write_text(json.dumps(found, indent=1) + "\n")
    draw(found, output.with_suffix(".png"))
    CONSOLE.print(table(found))


if __name__ == "__main__":
    main()

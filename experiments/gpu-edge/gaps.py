"""How much is there to gain where servers batch or load? Rules beside searches and a bound, on the same chance.

    python experiments/gpu-edge/gaps.py [--world gpu-edge] [--who WHO ..] [--policy WHO=FILE ..] [--seeds 10] [--bound]

Writes results/gaps.json (--output: another file) and prints it as a table. With --bound, the lower bound of the
episodes comes last, for worlds that are measured from their first slot; it takes ten minutes a world. A world that is
there already is measured anew, or of it only those that --who names or whose files --policy names; others stay. Seeds
from 100 on; the part of a load that `amortised` counts was chosen on four others.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from coinfer.evaluate import serving_oracles as oracles
from coinfer.evaluate.deciders import apart
from coinfer.evaluate.limits import lower_bound
from coinfer.evaluate.oracles import Oracle
from coinfer.evaluate.policy_files import open_policy
from coinfer.evaluate.serving_slots import FORESIGHT, LOADS_AT_HOME, demand_clairvoyant, demand_greedy, rules
from coinfer.evaluate.simulate import Maker, Run, run_policy
from coinfer.evaluate.statistics import interval
from coinfer.policies.heuristics.insertion import insertion
from coinfer.policies.heuristics.offload import OFFLOAD
from coinfer.scenario.compile import open_world

HERE = Path(__file__).resolve().parent
FIRST = 100
"""First seed."""
CONSOLE = Console(highlight=False)


class Decides(NamedTuple):
    """A policy by its maker, or a decider that reads the state."""

    maker: Maker | None = None
    oracle: Oracle | None = None


CLAIRVOYANT = "demand-greedy that knows the demand to come"
PLAIN = {
    "sequential-greedy": Decides(maker=OFFLOAD["sequential-greedy"]),
    "insertion": Decides(maker=insertion),
}


class Measured(NamedTuple):
    """A world, and who decides in it."""

    preset: str
    changes: dict[str, float]
    """The shipped presets' episodes are longer."""
    deciders: dict[str, Decides]
    """Beside the rules of `serving_slots.rules`."""
    apart: int = 1
    """Deciders who share out the tasks and do not know what the others send."""
    warm_up: int = 0
    """Slots that are not counted: servers begin with nothing loaded."""


AMORTISED = {"amortised 0.2": Decides(oracle=oracles.amortised_greedy(0.2))}
DESCENT = {"serving-descent": Decides(oracle=oracles.serving_descent)}
ROLLING = {"forecast of 10 slots": Decides(oracle=oracles.serving_forecast(10))}
WORLDS = {
    "gpu-edge": Measured(
        "gpu-edge",
        {"slots": 40},
        {**PLAIN, **DESCENT, "horizon of 2 slots": Decides(oracle=oracles.serving_horizon(2))},
    ),
    "many-models": Measured(
        "many-models",
        {"slots": 80},
        {
            **PLAIN,
            **AMORTISED,
            **ROLLING,
            "horizon of 10 slots": Decides(oracle=oracles.serving_horizon(10)),
        },
    ),
    "gpu-edge, 2 slots late": Measured("gpu-edge", {"slots": 40, "staleness_slots": 2}, {**PLAIN, **DESCENT}),
    "many-models, 5 slots late": Measured("many-models", {"slots": 80, "staleness_slots": 5}, {**PLAIN, **AMORTISED}),
}
WORLDS |= {
    f"{name}, {count} deciders": WORLDS[name]._replace(deciders={}, apart=count)
    for name in ("gpu-edge, 2 slots late", "many-models, 5 slots late")
    for count in (4, 16)
}
"""By name; servers are seen as they are, or some slots late, by one decider or several who do not know what the others
send."""
TIGHT = "many-models, 560 MB"
_TIGHT = {"slots": 150, "servers.0.memory_bytes": 5.6e8}
_TIGHT_AND_LATE = Measured("many-models", {**_TIGHT, "staleness_slots": 5}, {}, warm_up=50)
WORLDS |= {TIGHT: Measured("many-models", _TIGHT, {**AMORTISED}, warm_up=50)}
WORLDS |= {f"{TIGHT}, 5 slots late": _TIGHT_AND_LATE}
WORLDS |= {f"{TIGHT}, 5 slots late, {count} deciders": _TIGHT_AND_LATE._replace(apart=count) for count in (4, 16)}
"""Memory for four fifths of the networks, after 10 s."""
MOVING = "tight-memory"
WORLDS |= {MOVING: Measured("tight-memory", {"slots": 150}, {**AMORTISED, **DESCENT, **ROLLING}, warm_up=50)}
LOADS_HOME = "demand-greedy that loads at home"
RULES = {*PLAIN, LOADS_HOME, "serving-greedy", "amortised 0.2", "demand-greedy", "demand-at-home"}


def measured(world: Any, name: str, decides: Decides, seeds: int, warm_up: int) -> Run:
    oracle, maker = decides.oracle, decides.maker
    return run_policy(world, name, seeds, 1, maker, oracle=oracle, first=FIRST, warm_up=warm_up)


def rows(name: str, seeds: int, bound: bool, only: list[str], files: dict[str, str]) -> list[dict[str, Any]]:
    """Return the measures of everyone in a world, or of some only, among them policies of files."""
    compiled = open_world(WORLDS[name].preset, WORLDS[name].changes)
    world: Any = compiled.world
    apart_by = WORLDS[name].apart
    named = {who: Decides(oracle=apart(oracle, apart_by)) for who, oracle in rules(world).items()}
    if world.serving.loads:
        named[LOADS_HOME] = Decides(oracle=apart(demand_greedy(LOADS_AT_HOME), apart_by))
    deciders = {**WORLDS[name].deciders, **named}
    if apart_by == 1 and world.serving.loads:
        deciders[CLAIRVOYANT] = Decides(oracle=demand_clairvoyant(FORESIGHT))
    deciders |= {who: Decides(maker=open_policy(file, compiled)[0]) for who, file in files.items()}
    only = [*only, *files]
    runs: dict[str, Callable[[], Run]] = {
        who: lambda who=who, one=one: measured(world, who, one, seeds, WORLDS[name].warm_up)
        for who, one in deciders.items()
    }
    if bound and not WORLDS[name].warm_up:  # the bound is of whole episodes
        runs["lower bound"] = lambda: lower_bound(world, seeds, 1, first=FIRST)
    found = list[dict[str, Any]]()
    for who, run in runs.items():
        if only and who not in only:
            continue
        began_s = time.process_time()
        result = run()
        known = {key: result.measures[key] for key in ("mean_s", "p95_s", "in_time")}
        values = {key: value.tolist() for key, value in known.items() if not np.isnan(value).any()}
        found.append({"who": who, "tasks": result.tasks, "took_s": round(time.process_time() - began_s, 1), **values})
        mean = interval(result.measures["mean_s"])
        CONSOLE.print(f"{name}: {who} {1e3 * mean.mean:.2f} ± {1e3 * mean.half:.2f} ms, {found[-1]['took_s']:.0f} s")
    return found


def table(name: str, found: list[dict[str, Any]]) -> Table:
    """Return mean latencies, and by how much each differs from the best of the rules, the cheap ones."""
    shown = Table("who decides", "mean, ms", "beside the best rule", "late", title=name)
    means = {row["who"]: torch.tensor(row["mean_s"]) for row in found}
    rules = [who for who in means if who in RULES] or [*means]
    best = min(rules, key=lambda who: float(means[who].mean()))
    for row in found:
        mean, gap = interval(means[row["who"]].numpy()), interval((means[row["who"]] / means[best] - 1).numpy())
        late = 100 * (1 - sum(row["in_time"]) / len(row["in_time"]))
        cells = (f"{1e3 * mean.mean:.2f} ± {1e3 * mean.half:.2f}", f"{100 * gap.mean:+.1f} ± {100 * gap.half:.1f} %")
        shown.add_row(row["who"], *cells, f"{late:.2f} %")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=(*WORLDS, "all"), default="all")
    parser.add_argument("--who", nargs="*", default=[], help="measure these only; others stay as they are recorded")
    parser.add_argument("--policy", nargs="*", default=[], help="WHO=FILE, measure these policies of one world")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--bound", action="store_true")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "gaps.json")
    arguments = parser.parse_args()
    if arguments.policy and arguments.world == "all":
        parser.error("--policy is for one world: name it with --world")
    torch.set_num_threads(1)
    output: Path = arguments.output
    record = json.loads(output.read_text()) if output.exists() else {}
    for name in WORLDS if arguments.world == "all" else (arguments.world,):
        files = dict(one.split("=", 1) for one in arguments.policy)
        found = rows(name, arguments.seeds, arguments.bound, arguments.who, files)
        again = {row["who"] for row in found}
        record[name] = [
            row for row in record.get(name, []) if (arguments.who or arguments.policy) and row["who"] not in again
        ] + found
        output.write_text(json.dumps(record, indent=1) + "\n")
    for name, found in record.items():
        CONSOLE.print(table(name, found))


if __name__ == "__main__":
    main()

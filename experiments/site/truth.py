"""Does the simulator tell the truth? A site's log becomes a scenario; its latencies are compared with measured ones.

    python experiments/site/truth.py [--rounds 10] [--loads 0.6 0.8 0.95] [--round-s 30]

A site as in `worth_it.py` plays rounds with three policies that decide on its servers: sequential greedy, the learned
one, and an actor that was hardly trained. The world is fitted to the first round of sequential greedy
at each load (what `coinfer scenario from-site` does); every policy is then simulated in it, and compared with what the
other rounds measured: the time from a request's arrival at the server that it reaches to its answer. The record goes to
results/NAME.json.
"""

import json
import tempfile
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from crowd import rounded
from nodes import wait_until
from worth_it import GREEDY, LEARNED, RESULTS, Site, options, write

from coinfer.evaluate.simulate import run_policy
from coinfer.evaluate.statistics import interval
from coinfer.scenario.compile import Compiled
from coinfer.site.fitting.evidence import Decided, decided
from coinfer.site.store import last_id, read_experience
from coinfer.site.trainer.learn import Trainer, TrainerSettings
from coinfer.site.trainer.worlds import fitted_world, maker_of

UNTRAINED = "dispatch, untrained actor"
SEEDS = 10
VERSIONS = {GREEDY: 0, LEARNED: 1, UNTRAINED: 2}


def untrained_policy(store: Path, folder: Path) -> Path:
    """Return the file of an actor that has played one slot, in a world fitted to a log."""
    return Trainer(TrainerSettings(store, folder, rounds=1, updates=0)).round().policy


def decisions_of(site: Site, policy: str, load: float, parsed: Namespace, number: int) -> list[Decided]:
    """Play a round, and return what the edge servers decided in it."""
    store = site.home / "experience.sqlite"
    before = last_id(store)
    count = len(site.play_by(VERSIONS[policy], GREEDY, load, parsed.round_s, number))
    found: list[Decided] = []

    def is_told() -> bool:
        found[:] = [one for one in decided(read_experience(store, before)) if one.by_server]
        state = site.operator.state()
        return not any(node["spooled"] for node in state["nodes"])

    wait_until(is_told, "all decisions are in the log")
    print(number, load, policy, count, "requests,", len(found), "decided by servers", flush=True)
    return found


def mean_s(decisions: list[Decided]) -> float:
    """Return the mean latency of decisions as they were measured."""
    return float(np.mean([one.record.latency_s for one in decisions]))


def predicted_s(fitted: Compiled, policy: str, files: dict[str, Path]) -> float:
    """Return the mean latency of a policy in a simulated world."""
    maker = maker_of(files[policy]) if policy in files else None
    return float(
        run_policy(fitted.world, "sequential-greedy" if maker is None else policy, SEEDS, 4, maker)
        .measures["mean_s"]
        .mean()
    )


def compare(measured: dict[str, list[float]], predicted: dict[str, float]) -> dict[str, Any]:
    """Return measured means beside predictions, and whether both put the policies into the same order."""
    means = {policy: float(np.mean(own)) for policy, own in measured.items()}
    rows = {
        policy: {
            "measured_s": rounded(interval(np.array(own))),
            "predicted_s": round(predicted[policy], 4),
            "error": round(predicted[policy] / means[policy] - 1, 4),
        }
        for policy, own in measured.items()
    }
    return {
        "policies": rows,
        "same_order": sorted(means, key=means.__getitem__) == sorted(predicted, key=predicted.__getitem__),
    }


def main() -> None:
    """Play, fit, simulate and compare."""
    parser = options()
    parser.description = __doc__
    parser.add_argument("--loads", type=float, nargs="+", default=[0.6, 0.8, 0.95])
    parsed = parser.parse_args()
    output = parsed.output or RESULTS / "truth.json"
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coinfer-truth-")))
        site = Site(stack, parsed, (GREEDY, LEARNED))
        files: dict[str, Path] = {LEARNED: parsed.policy}
        for load in parsed.loads:
            fitted = fitted_world(decisions_of(site, GREEDY, load, parsed, 0))
            if UNTRAINED not in files:
                files[UNTRAINED] = untrained_policy(site.home / "experience.sqlite", folder)
                site.operator.push(files[UNTRAINED])
            measured: dict[str, list[float]] = {policy: [] for policy in VERSIONS}
            for number in range(1, parsed.rounds + 1):
                for policy in VERSIONS:
                    measured[policy].append(mean_s(decisions_of(site, policy, load, parsed, number)))
            found[f"{load:g}"] = compare(measured, {policy: predicted_s(fitted, policy, files) for policy in VERSIONS})
            errors = [abs(row["error"]) for one in found.values() for row in one["policies"].values()]
            orders = sum(one["same_order"] for one in found.values())
            summary = {"median_error": round(float(np.median(errors)), 4), "same_order": f"{orders} of {len(found)}"}
            write(output, parsed, summary=summary, loads=found)
    print(json.dumps({**summary, **found}, indent=1))


if __name__ == "__main__":
    main()

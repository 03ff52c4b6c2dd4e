"""Does the simulator tell the truth? A site's log becomes a scenario; its latencies are compared with measured ones.

    python experiments/site/truth.py [--rounds 10] [--loads 0.6 0.8 0.95] [--round-s 30]

A site as in `worth_it.py` plays rounds with three policies that decide on its servers: sequential greedy, the learned
one, and an actor that was hardly trained. For each policy a world is fitted to the rounds of the two others at the same
load, as `coinfer scenario from-site` does, and the policy is simulated in it with the requests that it met, each at
its moment (`--replay`). Compared are mean latencies from a request's arrival at the server that it reaches to its
answer, its device's own if servers refused it. The record goes to results/NAME.json.
"""

import json
import math
import tempfile
from argparse import Namespace
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from crowd import rotated, rounded
from nodes import wait_until
from worth_it import GREEDY, LEARNED, RESULTS, Site, options, write

from coinfer.evaluate.simulate import run_policy
from coinfer.evaluate.statistics import interval, paired_difference
from coinfer.scenario.world import OffloadWorld
from coinfer.site.fitting.evidence import Decided, decided
from coinfer.site.fitting.requests import asked
from coinfer.site.store import last_id, read_experience
from coinfer.site.trainer.learn import Trainer, TrainerSettings
from coinfer.site.trainer.worlds import fitted_world, maker_of

UNTRAINED = "dispatch, untrained actor"
SEEDS = 4
VERSIONS = {GREEDY: 0, LEARNED: 1, UNTRAINED: 2}
Rounds = dict[str, list[list[Decided]]]
"""By policy what was decided in each round."""


def untrained_policy(store: Path, folder: Path) -> Path:
    """Return the file of an actor that has played one slot, in a world fitted to a log."""
    return Trainer(TrainerSettings(store, folder, rounds=1, updates=0)).round().policy


def decisions_of(site: Site, policy: str, load: float, parsed: Namespace, number: int) -> list[Decided]:
    """Play a round, and return what was decided in it, by servers and by devices."""
    store = site.home / "experience.sqlite"
    before = last_id(store)
    count = len(site.play_by(VERSIONS[policy], GREEDY, load, parsed.round_s, number))
    found: list[Decided] = []

    def is_told() -> bool:
        found[:] = decided(read_experience(store, before))
        state = site.operator.state()
        return not any(node["spooled"] for node in state["nodes"])

    wait_until(is_told, "all decisions are in the log")
    requests = asked(found, by_server=True)
    refused = sum(one.by_server and not one.record.admitted for one in found)
    mean_s = np.mean([one.latency_s for one in requests]) if requests else math.nan
    print(number, load, policy, count, "requests,", len(requests), "decided by servers,", end=" ")
    print(refused, f"refused, {mean_s:.4f} s", flush=True)
    return found


def predictions(policy: str, rounds: Rounds, actor: Path | None) -> tuple[list[float], list[float]]:
    """Return the mean latency of each round of a policy as it was measured and as it is simulated.

    The world is fitted to the rounds of the other policies, and the requests of the round come in it as they came.
    """
    log = [one for other, own in rounds.items() if other != policy for played in own for one in played]
    measured, predicted = list[float](), list[float]()
    for played in rounds[policy]:
        requests = asked(played, by_server=True)
        world = fitted_world(log, requests, pause_s=math.inf).world
        assert isinstance(world, OffloadWorld)
        maker = None if actor is None else maker_of(actor)
        run = run_policy(world, "sequential-greedy" if maker is None else policy, SEEDS, 1, maker)
        measured.append(float(np.mean([one.latency_s for one in requests])))
        predicted.append(float(run.measures["mean_s"].mean()))
    return measured, predicted


def compare(measured: dict[str, list[float]], predicted: dict[str, list[float]]) -> dict[str, Any]:
    """Return measured means beside predictions, and whether both put the policies into the same order.

    Of two policies whose rounds measured no difference beyond chance no order is known.
    """
    rows = {
        policy: {
            "measured_s": rounded(interval(np.array(own))),
            "predicted_s": rounded(interval(np.array(predicted[policy]))),
            "error": round(float(np.mean(predicted[policy]) / np.mean(own)) - 1, 4),
        }
        for policy, own in measured.items()
    }
    pairs = list(combinations(measured, 2))
    told = [pair for pair in pairs if is_told_apart(*(np.array(measured[policy]) for policy in pair))]
    alike = [pair for pair in told if difference(measured, pair) * difference(predicted, pair) > 0]
    return {
        "policies": rows,
        "same_order": all(difference(measured, pair) * difference(predicted, pair) > 0 for pair in pairs),
        "told_apart": len(told),
        "told_apart_in_same_order": len(alike),
    }


def difference(means: dict[str, list[float]], pair: tuple[str, str]) -> float:
    """Return how much longer the second policy takes than the first."""
    return float(np.mean(means[pair[1]]) - np.mean(means[pair[0]]))


def is_told_apart(one: np.ndarray, other: np.ndarray) -> bool:
    """Return true if the rounds of two policies differ by more than the half of their 95 % interval."""
    mean, half = paired_difference(other, one)
    return bool(abs(mean) > half)


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
            decisions_of(site, GREEDY, load, parsed, 0)
            if UNTRAINED not in files:
                files[UNTRAINED] = untrained_policy(site.home / "experience.sqlite", folder)
                site.operator.push(files[UNTRAINED])
            rounds: Rounds = {policy: [] for policy in VERSIONS}
            for number in range(1, parsed.rounds + 1):
                for policy in rotated(list(VERSIONS), number):
                    rounds[policy].append(decisions_of(site, policy, load, parsed, number))
            pairs = {policy: predictions(policy, rounds, files.get(policy)) for policy in VERSIONS}
            measured, predicted = ({policy: pair[i] for policy, pair in pairs.items()} for i in (0, 1))
            rounds_s = {"measured_s": measured, "predicted_s": predicted}
            found[f"{load:g}"] = {**compare(measured, predicted), "rounds": rounds_s}
            write(output, parsed, summary=summarise(found), loads=found)
    print(json.dumps({**summarise(found), **found}, indent=1))


def summarise(found: dict[str, Any]) -> dict[str, Any]:
    """Return what all loads come to."""
    errors = [abs(row["error"]) for one in found.values() for row in one["policies"].values()]
    told = {name: sum(one[name] for one in found.values()) for name in ("told_apart", "told_apart_in_same_order")}
    orders = sum(one["same_order"] for one in found.values())
    return {"median_error": round(float(np.median(errors)), 4), "same_order": f"{orders} of {len(found)}", **told}


if __name__ == "__main__":
    main()

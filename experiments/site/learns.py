"""Does a site learn? Latency of an actor that begins untrained, beside sequential greedy, as the site's own log grows.

    python experiments/site/learns.py [--steps 20] [--rounds 3] [--round-s 30] [--load 0.8]

A site as in `worth_it.py`. In each step the actor and sequential greedy decide the same requests in turns, then the
trainer learns from the log for a while, and what it exports decides next. Half-way the load changes its shape: other
devices ask, for another network. The experiment pins each version, so that what is seen is learning, not judging. With
`--simulated 1` the agents see next to nothing of simulation first. The record and its curve go to results/NAME.json.
"""

import json
import tempfile
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from crowd import measures, rounded
from nodes import wait_until
from truth import untrained_policy
from worth_it import GREEDY, RESULTS, Site, options, write

from coinfer.evaluate.statistics import interval
from coinfer.site.store import read_experience
from coinfer.site.trainer.learn import Trainer, TrainerSettings

ACTOR = "actor"


def step_of(site: Site, parsed: Namespace, version: int, number: int) -> dict[str, Any]:
    """Return what came of one step's requests, by the actor and by sequential greedy."""
    found: dict[str, list[dict[str, float]]] = {ACTOR: [], GREEDY: []}
    for each in range(parsed.rounds):
        order = (ACTOR, GREEDY) if each % 2 == 0 else (GREEDY, ACTOR)
        for who in order:
            seed = number * parsed.rounds + each
            rows = site.play_by(version if who == ACTOR else 0, GREEDY, parsed.load, parsed.round_s, seed)
            found[who].append(measures(rows))
    ratios = [own["mean_s"] / other["mean_s"] for own, other in zip(found[ACTOR], found[GREEDY], strict=True)]
    return {"ratio": rounded(interval(np.array(ratios))), **found}


def main() -> None:
    """Play and learn in turns."""
    parser = options()
    parser.description = __doc__
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--load", type=float, default=0.8)
    parser.add_argument("--simulated", type=int, default=600, help="slots of the fitted world that are played first")
    parser.add_argument("--updates", type=int, default=200, help="from the log in each step")
    parser.set_defaults(rounds=3)
    parsed = parser.parse_args()
    output = parsed.output or RESULTS / "learns.json"
    torch.set_num_threads(1)
    curve: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coinfer-learns-")))
        site = Site(stack, parsed, (GREEDY,))
        store = site.home / "experience.sqlite"
        site.crowd.only(parsed.models[:1])
        while sum(1 for _ in read_experience(store)) < 250:  # enough to fit a world to
            site.play_by(0, GREEDY, parsed.load, parsed.round_s, 10_000)
        version = site.operator.push(untrained_policy(store, folder / "untrained"))["version"]
        trainer = Trainer(TrainerSettings(store, folder / "trainer", parsed.simulated, parsed.updates))
        for number in range(parsed.steps):
            if number == parsed.steps // 2:
                site.crowd.only(parsed.models[1:])
            found = step_of(site, parsed, version, number)
            requests = sum(1 for one in read_experience(store) if one.get("group"))
            curve.append({"requests": requests, "model": site.crowd.asked, **found})
            print(number, requests, site.crowd.asked, found["ratio"], flush=True)
            write(output, parsed, curve=curve)
            if number + 1 < parsed.steps:
                wait_until(lambda: not any(one["spooled"] for one in site.operator.state()["nodes"]), "all is told")
                version = site.operator.push(trainer.round().policy)["version"]
    print(json.dumps([{key: one[key] for key in ("requests", "model", "ratio")} for one in curve], indent=1))


if __name__ == "__main__":
    main()

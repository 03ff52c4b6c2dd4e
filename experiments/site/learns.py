"""Does a site learn? Latency of a bad actor and of what is learned from it, beside sequential greedy, by requests.

    python experiments/site/learns.py [--steps 12] [--rounds 2] [--round-s 20] [--load 0.8]

A site as in `worth_it.py`. The first actor is untrained, and the worst of `--random` random ones in the world that is
fitted to the site's first requests; all agents of both trainers begin as it. One trainer plays a single slot in the
fitted world before it learns from the log, the other one 600, as the trainer of a site does. In each step they and
sequential greedy decide the same requests in turns, and between steps both learn from what was logged meanwhile. In the
first step the best of as many random actors as a trainer has agents plays, too: what their choice gives without
learning. Half-way the load changes its shape: other devices ask, for another network; a trainer that finds another load
begins anew, as the worst. Versions are pinned, so that what is seen is learning, not judging. The record and its curve
go to results/NAME.json after every step, and its figure beside it.
"""

import json
import os
import tempfile
from argparse import Namespace
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from crowd import measures, rotated, rounded
from nodes import wait_until
from truth import untrained_policy
from worth_it import GREEDY, RESULTS, Site, options, write

from coinfer.envs import offload
from coinfer.evaluate.statistics import interval
from coinfer.policies.learned.export import export
from coinfer.policies.learned.placement.policy import policies_of
from coinfer.rl.algorithms.cdo_dsac import CdoDsac, CdoSettings, features_of, make_loop, placements_of
from coinfer.rl.core.broadcast import select_best
from coinfer.rl.core.loop import Loop
from coinfer.scenario.compile import fingerprint
from coinfer.scenario.world import OffloadWorld
from coinfer.site.fitting.evidence import decided
from coinfer.site.store import read_experience
from coinfer.site.trainer.learn import SCHEME, Trainer, TrainerSettings
from coinfer.site.trainer.worlds import fitted_world

LOG, BOTH = "learned from the worst, 1 slot of simulation", "learned from the worst, 600 slots of simulation"
WORST, CHOSEN = "worst random actor", "best of 4 random actors"


class FromWorst(Trainer):
    """A trainer whose agents begin as one actor, and not as random ones.

    Args:
        settings: of the trainer.
        start: [P] parameters of the actor.
    """

    def __init__(self, settings: TrainerSettings, start: torch.Tensor):
        super().__init__(settings)
        self._start = start

    def _begin(self, settings: CdoSettings, world: OffloadWorld, seeds: torch.Tensor) -> Loop[CdoDsac]:
        loop = super()._begin(settings, world, seeds)
        with torch.no_grad():
            loop.learner.sac.actor_flat.copy_(self._start.expand_as(loop.learner.sac.actor_flat))
        return loop


def worst_actor(store: Path, path: Path, count: int) -> tuple[torch.Tensor, list[float]]:
    """Write the worst of random actors in the world that is fitted to a log; return it, and all their rewards there."""
    world = fitted_world(decided(read_experience(store))).world
    assert isinstance(world, OffloadWorld)
    learner = make_loop(replace(CdoSettings(), agents=count), world, torch.arange(1)).learner
    rewards = select_best(learner.measure, count).returns[0]
    rows, chosen = learner.sac.actor_flat.detach()[rewards.argmin()][None], learner.settings
    module = policies_of(learner.sac.actor, rows, features_of(chosen, world.edge.tasks), placements_of(chosen))[0]
    tables = offload.load(world)
    example = offload.observe(tables, offload.reset(tables, torch.arange(2)))
    export(path, module, example, scheme=SCHEME, scenario="site", scenario_fingerprint=fingerprint(world))
    return rows[0], [round(float(one), 4) for one in rewards]


def step_of(site: Site, parsed: Namespace, versions: dict[str, int], number: int) -> dict[str, Any]:
    """Return what came of one step's requests, by who decided."""
    found: dict[str, list[dict[str, float]]] = {who: [] for who in versions}
    for each in range(parsed.rounds):
        for who in rotated(list(versions), number + each):
            seed = number * parsed.rounds + each
            found[who].append(measures(site.play_by(versions[who], GREEDY, parsed.load, parsed.round_s, seed)))
    greedy = np.array([one["mean_s"] for one in found[GREEDY]])
    ratios = {
        who: rounded(interval(np.array([one["mean_s"] for one in own]) / greedy))
        for who, own in found.items()
        if who != GREEDY
    }
    return {"beside sequential greedy": ratios, "rounds": found}


def draw(path: Path, curve: list[dict[str, Any]]) -> None:
    """Draw the latency of those who learn, as a multiple of sequential greedy's, by requests in the log."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for which, who in enumerate((WORST, CHOSEN, LOG, BOTH)):
        own = [one for one in curve if who in one["beside sequential greedy"]]
        each = [[round_["mean_s"] for round_ in one["rounds"][who]] for one in own]
        greedy = [[round_["mean_s"] for round_ in one["rounds"][GREEDY]] for one in own]
        requests = [one["requests"] for one in own]
        for at, some, others in zip(requests, each, greedy, strict=True):
            axes.plot([at] * len(some), np.array(some) / np.array(others), ".", color=f"C{which}", alpha=0.4)
        means = [np.mean(np.array(some) / np.array(others)) for some, others in zip(each, greedy, strict=True)]
        axes.plot(requests, means, marker="o", color=f"C{which}", label=who)
    axes.axhline(1.0, color="black", linewidth=0.8)
    first = curve[0]["model"]
    change = next((one["requests"] for one in curve if one["model"] != first), None)
    if change is not None:
        axes.axvline(change, color="grey", linestyle=":", label="another network is asked for")
    axes.set(xlabel="requests in the log", ylabel="mean latency, of sequential greedy's", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Play and learn in turns."""
    parser = options()
    parser.description = __doc__
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--load", type=float, default=0.8)
    parser.add_argument("--random", type=int, default=21, help="random actors, of which the worst begins")
    parser.add_argument("--simulated", type=int, default=600, help="slots of the fitted world that are played first")
    parser.add_argument("--updates", type=int, default=200, help="from the log in each step")
    parser.set_defaults(rounds=2, round_s=20.0)
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
        start, rewards = worst_actor(store, folder / "worst.onnx", parsed.random)
        versions = {GREEDY: 0, WORST: site.operator.push(folder / "worst.onnx")["version"]}
        versions[CHOSEN] = site.operator.push(untrained_policy(store, folder / "chosen"))["version"]
        simulated = {LOG: 1, BOTH: parsed.simulated}
        trainers = {
            who: FromWorst(TrainerSettings(store, folder / str(slots), slots, parsed.updates), start)
            for who, slots in simulated.items()
        }
        for number in range(parsed.steps):
            if number == parsed.steps // 2:
                site.crowd.only(parsed.models[1:])
            requests = sum(1 for one in read_experience(store) if one.get("group"))
            found = step_of(site, parsed, versions, number)
            curve.append({"requests": requests, "model": site.crowd.asked, "load_average": os.getloadavg(), **found})
            print(number, requests, site.crowd.asked[:1], found["beside sequential greedy"], flush=True)
            write(output, parsed, random_rewards=rewards, curve=curve)
            draw(output.with_suffix(".png"), curve)
            if number + 1 < parsed.steps:
                wait_until(lambda: not any(one["spooled"] for one in site.operator.state()["nodes"]), "all is told")
                pushed = {who: site.operator.push(one.round().policy)["version"] for who, one in trainers.items()}
                versions = {GREEDY: 0, **pushed}
    shown = ("requests", "model", "beside sequential greedy")
    print(json.dumps([{key: one[key] for key in shown} for one in curve], indent=1))


if __name__ == "__main__":
    main()

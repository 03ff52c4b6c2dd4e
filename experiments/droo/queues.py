"""Queues over the arrival rate: LyDROO beside coordinate descent, rules that do not mind the queues, and no training.

    nice -n 10 python experiments/droo/queues.py

Five learners for each arrival rate play 10,000 frames each; the best of them by the reward on held-out frames, and all
rules, then play the same ten episodes. Writes results/queues.json; what is there already is not run again.
"""

import json

import common
import torch

from coinfer.evaluate import queues
from coinfer.evaluate.simulate import Run
from coinfer.evaluate.statistics import interval
from coinfer.policies.learned.imitation.frame_policy import FramePolicy
from coinfer.rl.algorithms import lydroo
from coinfer.rl.core.training import TrainSettings
from coinfer.scenario.compile import open_world
from coinfer.scenario.load import parse_changes
from coinfer.scenario.world import QueueWorld

RESULTS = common.RESULTS / "queues.json"
ARRIVALS = (60e3, 80e3, 100e3)
LEARNERS, EPISODES, SLOTS = 5, 10, 1000
RULES = ("coordinate-descent", "myopic", "all-send", "random", "all-local")


def policies(changes: tuple[str, ...]) -> dict[str, FramePolicy]:
    """Return the policy of the best learner, and what it was before the training.

    Args:
        changes: of the scenario.
    """
    settings = TrainSettings("droo-queues", changes, seeds=LEARNERS)
    trained = lydroo.train(settings)
    best = trained.modules[trained.best]
    assert isinstance(best, FramePolicy)
    _, world = settings.open_queues()
    begun = lydroo.make_learner(lydroo.PRESETS["quick"], world, settings.learner_seeds()).flat[trained.best]
    untrained = FramePolicy(best.net, begun, best.world, best.power, best.candidates, reads_weights=True)
    return {"LyDROO": best, "LyDROO, untrained": untrained}


def row(run: Run) -> dict[str, list[float]]:
    """Return mean and half of the 95 % interval of every measure."""
    return {name: list(interval(values)) for name, values in run.measures.items()}


def measure(arrival_bits: float) -> dict[str, dict[str, list[float]]]:
    """Play all rows at an arrival rate.

    Args:
        arrival_bits: mean of a device and frame.
    """
    changes = (f"queues.arrival_bits={arrival_bits}", f"slots={SLOTS}")
    world = open_world("droo-queues", parse_changes(changes)).world
    assert isinstance(world, QueueWorld)
    rows = {}
    for name, policy in policies(changes).items():
        rows[name] = row(queues.run(world, name, EPISODES, 1, policy=lambda g, w, _, policy=policy: policy(g, w)))
    for name in RULES:
        rows[name] = row(queues.run(world, name, EPISODES, 1))
    return rows


def main() -> None:
    """Measure what is not there yet, and print the table."""
    torch.set_num_threads(1)
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else {}
    for arrival_bits in ARRIVALS:
        name = f"{arrival_bits / 1e3:g} kbit"
        if name not in rows:
            rows[name] = measure(arrival_bits)
            common.save("queues", {"learners": LEARNERS, "episodes": EPISODES, "slots": SLOTS}, rows)
        for policy, found in rows[name].items():
            texts = [
                f"{key} {mean / unit:.4g} ± {half / unit:.2g}"
                for key, unit in (("queue_bits", 1e3), ("longest_bits", 1e3), ("queue_growth", 0.01), ("rate_bps", 1e6))
                for mean, half in [found[key]]
            ]
            print(f"{name}  {policy:20s}", ", ".join(texts), flush=True)


if __name__ == "__main__":
    main()

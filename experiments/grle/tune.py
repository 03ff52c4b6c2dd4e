"""Try learning rates for GRLE, DROOE, GRL and DROO: the same ones, with as many learners and slots for each scheme.

    nice -n 10 python experiments/grle/tune.py

Ten learners that are used for nothing else train with each rate in S2 with 14 devices and deadlines x 0.6, and are
judged on worlds that no other part of the experiment plays. Writes results/rates.json; what is there already is not
trained again. `train.py` then trains every scheme with its best rate, too (`cases.VARIANTS`).
"""

import json
import time

import torch
from cases import HARD, RATES, SCHEMES, SEEDS, settings_of

from coinfer.physics import random
from coinfer.rl.algorithms.grle import make_loop
from coinfer.rl.core.loop import assess

TRIED = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2)
FIRST = 100
"""Seed of the first learner."""
JUDGED, ROUNDS = 77, 100
"""Seed of the worlds that judge, and the slots that each of them plays."""


def timely_accuracy(scheme: str, rate: float) -> list[float]:
    """Return the timely accuracy of ten learners, trained with a learning rate.

    Args:
        scheme: one of `SCHEMES`.
        rate: the learning rate at first.
    """
    seeds = random.key(torch.zeros(SEEDS, dtype=torch.int64), FIRST + torch.arange(SEEDS))
    settings = settings_of(scheme, {"learning_rate": rate})
    loop = make_loop(settings, HARD.compiled(), seeds)
    while loop.round < settings.loop.rounds:
        loop.play()
    return assess(loop.env, loop.learner, ROUNDS, JUDGED)["timely_accuracy"].tolist()


def main() -> None:
    """Try everything that was not tried yet."""
    torch.set_num_threads(1)
    results = json.loads(RATES.read_text()) if RATES.exists() else {}
    for rate in TRIED:
        for scheme in SCHEMES:
            tried = results.setdefault(scheme, {})
            if str(rate) not in tried:
                began_s = time.process_time()
                found = [round(value, 5) for value in timely_accuracy(scheme, rate)]
                tried[str(rate)] = {"timely_accuracy": found, "cpu_s": round(time.process_time() - began_s, 1)}
                RATES.write_text(json.dumps(results, indent=1) + "\n")
                print(scheme, rate, round(sum(found) / SEEDS, 4), tried[str(rate)]["cpu_s"], "s", flush=True)


if __name__ == "__main__":
    main()

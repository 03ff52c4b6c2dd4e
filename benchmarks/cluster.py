"""Measure what a training on a cluster costs, and what the death of an agent, the controller or a node costs it.

    python benchmarks/cluster.py [--kills 20]

A Ray cluster of two nodes on this machine (loopback only) trains CDO-DSAC's quick preset: five agents and the
controller in six processes. Members are killed (SIGKILL) at random moments, a whole node last. The hash of the final
state is compared with that of an undisturbed run. Writes benchmarks/results/cluster.json:
- `rounds a second` of the batched learner in one process, and on the cluster (here both share the same cores);
- `at risk, s`: from the first step that was not saved until a loss was noticed. This much training is played again; the
  records come out the same and none is lost;
- `back, s`: from then until all members have played on.
"""

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from threading import Timer
from typing import Any

import harness
import torch

from coinfer.rl.algorithms import cdo_dsac
from coinfer.rl.algorithms.cdo_dsac import TrainingJob
from coinfer.rl.core.loop import run
from coinfer.rl.core.training import Report, run_training
from coinfer.rl.distributed import ray_workers
from coinfer.rl.distributed.worker_group import Recovery
from coinfer.scenario.compile import open_world

SOON_S, LATE_S = 0.2, 2.0
"""A member dies between these times after the last recovery."""
ROUNDS_A_KILL = 25
SPEED_ROUNDS = 200


@contextmanager
def two_nodes() -> Iterator[Any]:
    os.environ.update(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_USAGE_STATS_ENABLED="0")
    os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] = "1"
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="ray-") as files:
        os.environ["RAY_TMPDIR"] = files
        node = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args=node)
        try:
            made.add_node(**node)
            yield made
        finally:
            made.shutdown()


def setting_of(rounds: int, quick: bool) -> TrainingJob:
    agents = 2 if quick else 5
    settings = replace(cdo_dsac.with_rounds(cdo_dsac.PRESETS["quick"], rounds), agents=agents, assess_every=rounds)
    return TrainingJob(settings, open_world("cdo-dsac", {}).world, [0])


def speed(job: TrainingJob, address: str) -> dict[str, harness.Figure]:
    """Return rounds per second without the first ones (start, warm-up)."""
    loops = {"one process": job.loop(), "cluster": job.loop()}
    found = {}
    for name, loop in loops.items():
        marks = [(time.monotonic(), 0)]

        def mark(at: Any, _: Any = None, marks: list[tuple[float, int]] = marks) -> None:
            if at.round - marks[-1][1] >= 25:
                marks.append((time.monotonic(), at.round))

        if name == "cluster":
            with ray_workers.cluster_player(job, address) as play:
                run_training(loop, {}, play=play, progress=mark)
        else:
            run(loop, mark)
        pairs = pairwise(marks[1:])
        found[f"rounds a second, {name}"] = harness.figure([(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs])
    return found


def disturbed(job: TrainingJob, nodes: Any, kills: int) -> tuple[str, list[tuple[str, Recovery]]]:
    """Return the hash of the final state, and the losses by what was killed."""
    recoveries: list[Recovery] = []
    killed: list[str] = []
    groups: list[ray_workers.RayWorkerGroup] = []
    drawn = random.Random(0)

    def node() -> None:
        nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)

    def kill(_: Report) -> None:
        if len(killed) != len(recoveries) or len(killed) > kills:
            return
        if len(killed) == kills:
            killed.append("node")
            node()
            return
        # every other time the controller, as there is but one
        controller = len(groups[0].workers) - 1
        worker = controller if len(killed) % 2 else drawn.randrange(controller)
        killed.append("controller" if worker == controller else "agent")
        pid = groups[0].worker_placements()[worker].pid
        Timer(drawn.uniform(SOON_S, LATE_S), os.kill, (pid, signal.SIGKILL)).start()

    with ray_workers.cluster_player(job, nodes.address, on_recovery=recoveries.append, on_start=groups.append) as play:
        digest = run_training(job.loop(), {}, play=play, progress=kill if kills else lambda _: None)
    return digest, list(zip(killed, recoveries, strict=False))


def main() -> None:
    parser = harness.parser(__doc__, "cluster")
    parser.add_argument("--kills", type=int, default=20, help="members to kill")
    asked = parser.parse_args()
    kills = 2 if asked.quick else asked.kills
    torch.set_num_threads(1)
    job = setting_of(ROUNDS_A_KILL * (kills + 3), asked.quick)
    with two_nodes() as nodes:
        figures = speed(setting_of(100 if asked.quick else SPEED_ROUNDS, asked.quick), nodes.address)
        whole, _ = disturbed(job, nodes, 0)
        digest, recoveries = disturbed(job, nodes, kills)
    for kind in ("agent", "controller", "node"):
        of_kind = [loss for name, loss in recoveries if name == kind]
        if of_kind:
            figures[f"{kind} dies: at risk, s"] = harness.figure([loss.age_s for loss in of_kind])
            figures[f"{kind} dies: back, s"] = harness.figure([loss.took_s for loss in of_kind])
    if digest != whole:
        sys.exit("disturbed, it ended with another hash")
    rows = [{"killed": name, **loss._asdict()} for name, loss in recoveries]
    harness.save(asked, figures, same=True, hash=digest, losses=rows)


if __name__ == "__main__":
    main()

"""A3C on workers of their own equals one process in deterministic mode, whichever workers die; both modes learn."""

from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.rl.algorithms.test_mtl_a3c import SMALL
from tests.rl.distributed.test_coordinator import LocalWorkerGroup

from coinfer.errors import TrainingError
from coinfer.rl import registry
from coinfer.rl.algorithms import a3c, mtl_a3c
from coinfer.rl.core.training import TrainingResult, TrainSettings
from coinfer.rl.distributed import worker_group
from coinfer.rl.distributed.parameter_server import ParameterServer
from coinfer.rl.distributed.worker_group import Recovery

PRESETS = {"mtl-a3c": mtl_a3c.PRESETS["quick"], "a3c": a3c.PRESETS["quick"]}
WORKERS = 3


def train(name: str, seeds: int = 2, threads: int = 0, rollouts: int = 6, **more: Any) -> TrainingResult:
    """Train with three workers; the last rollout is shorter than the others."""
    chosen = PRESETS[name]
    learner = replace(chosen.learner, workers=WORKERS, threads=threads, horizon=5)
    chosen = replace(chosen, learner=learner, trunk=(16,), assess_rounds=2)
    steps = (rollouts * learner.horizon - 2) * WORKERS * chosen.worlds
    settings = TrainSettings("mtl-a3c", SMALL, seeds=seeds, seed=1, steps=steps)
    return registry.trainer(name)(settings, blocks_settings=chosen, **more)


def on_workers(deaths: dict[int, int] | None = None, recoveries: list[Recovery] | None = None):
    """Return what plays on workers in this process."""

    @contextmanager
    def make_player(job):
        group = LocalWorkerGroup(job, deaths)
        report = (recoveries if recoveries is not None else []).append
        yield ParameterServer(group, job, report, sleep=lambda _: None).play

    return make_player


@cache
def single(name: str, seeds: int) -> TrainingResult:
    return train(name, seeds)


@pytest.mark.parametrize(("name", "seeds"), [("mtl-a3c", 1), ("mtl-a3c", 2), ("a3c", 1)])
def test_in_deterministic_mode_it_is_the_training_of_one_process(name, seeds):
    """Bit by bit, also where workers die: at once, while they play, and one of them twice in a row."""
    recoveries: list[Recovery] = []
    deaths = {1: 0, 8: 1, 9: 1, 12: 2}
    trained = train(name, seeds, make_player=on_workers(deaths, recoveries))
    assert trained.digest == single(name, seeds).digest
    assert trained.points == single(name, seeds).points
    assert trained.assessed == single(name, seeds).assessed
    assert recoveries
    assert {loss.rounds for loss in recoveries} <= {3, 5}


def test_a_training_begun_in_one_process_continues_on_workers(tmp_path: Path):
    class Stopped(Exception):
        pass

    def stop(report: Any) -> None:
        if report.round >= 10:
            raise Stopped

    with pytest.raises(Stopped):
        train("mtl-a3c", folder=tmp_path, progress=stop)
    rest = train("mtl-a3c", folder=tmp_path, resume=True, make_player=on_workers())
    assert rest.digest == single("mtl-a3c", 2).digest
    assert rest.points == single("mtl-a3c", 2).points


def test_asynchronous_workers_learn_in_whichever_order_they_answer():
    """To leave slow devices, which takes two thirds of the latency away; workers die on the way."""
    recoveries: list[Recovery] = []
    player = on_workers({call: call % WORKERS for call in (9, 30, 31)}, recoveries)
    trained = train("mtl-a3c", 1, 4, 24, make_player=player)
    first, last = trained.points[0].figures["reward"], trained.points[-1].figures["reward"]
    assert len(first) == WORKERS
    assert sum(last) > 0.6 * sum(first)
    assert recoveries


def test_a_worker_that_stays_dead_ends_the_training(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(worker_group, "RECOVERY_TIMEOUT_S", 0.0)
    with pytest.raises(TrainingError, match="a lost worker was not replaced: died"):
        train("mtl-a3c", make_player=on_workers({call: 1 for call in range(4, 2000)}))

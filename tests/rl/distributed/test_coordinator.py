"""A distributed training equals that of one process, however its rounds are divided and whichever workers die."""

import pickle
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from coinfer import checkpoint
from coinfer.errors import TrainingError
from coinfer.rl.algorithms import cdo_dsac
from coinfer.rl.algorithms.cdo_dsac import TrainingJob
from coinfer.rl.core.loop import run
from coinfer.rl.distributed import worker_group
from coinfer.rl.distributed.coordinator import Coordinator
from coinfer.rl.distributed.ray_workers import Job, worker_kinds
from coinfer.rl.distributed.states import merge_states, split_state
from coinfer.rl.distributed.worker_group import StaleStateError, WorkerLostError
from coinfer.rl.distributed.workers import Agent
from coinfer.scenario.compile import open_world

SMALL = replace(
    cdo_dsac.CdoSettings(), agents=3, worlds=2, rounds=12, warmup=4, batch=8, memory=64, hidden=(16,), form="flat",
    broadcast_every=2, judge_rounds=2, judge_worlds=1, assess_every=12,
)  # fmt: skip


@cache
def job(form: str = "flat") -> TrainingJob:
    """Two seeds, some five tasks in a slot."""
    changes = {"tasks_per_slot": 12, "slots": 6, "arrivals.mean": 0.6, "arrivals.variance": 0.06, "links.placements": 4}
    return TrainingJob(replace(SMALL, form=form), open_world("cdo-dsac", changes).world, [5, 6])


class LocalWorkerGroup:
    """A group of workers in this process; everything passes through pickle, as between processes.

    Args:
        deaths: workers that die, by the number of the call in which they do.
    """

    def __init__(self, job: Job, deaths: dict[int, int] | None = None):
        self.kinds, self.deaths, self.calls = worker_kinds(job), deaths or {}, 0
        self.workers = [self.make_worker(i) for i in range(len(self.kinds))]

    def make_worker(self, worker: int) -> Any:
        return self.kinds[worker].kind(*self.kinds[worker].arguments)

    def call(self, worker, method, *arguments):
        self.calls += 1
        dies = self.deaths.get(self.calls)
        if dies is not None:
            self.workers[dies] = self.make_worker(dies)
        failed = [part for part in arguments if isinstance(part, Exception)]
        try:
            if dies == worker or failed:
                raise WorkerLostError("died")
            result = getattr(self.workers[worker], method)(*pickle.loads(pickle.dumps(arguments)))
            return pickle.loads(pickle.dumps(result))
        except (WorkerLostError, StaleStateError) as error:
            return error

    def call_parts(self, worker, method, *arguments, parts):
        result = self.call(worker, method, *arguments)
        return [result] * parts if parts == 1 or isinstance(result, Exception) else result

    def first_done(self, promises):
        """Every other call is done first, so that results do not come in the order of the calls."""
        return self.calls % 2 * (len(promises) - 1)

    def wait(self, promises):
        for promise in promises:
            if isinstance(promise, Exception):
                raise WorkerLostError(str(promise))
        return list(promises)


def play_distributed(
    job: TrainingJob, deaths: dict[int, int] | None = None, pace: tuple[float, ...] = (0.02,), rounds_before: int = 0
):
    """Play a training and return loop, coordinator and workers.

    Args:
        pace: seconds between two readings of the clock, in turn.
        rounds_before: rounds that one process played before.
    """
    now = [0.0, 0]

    def clock() -> float:
        now[1] += 1
        now[0] += pace[now[1] % len(pace)]
        return now[0]

    workers = LocalWorkerGroup(job, deaths)
    coordinator, loop = Coordinator(workers, job, clock=clock, sleep=lambda _: None), job.loop()
    for _ in range(rounds_before):
        loop.play()
    while loop.round < loop.settings.rounds:
        coordinator.play(loop)
    return loop, coordinator, workers


@cache
def both(form: str):
    """The loop after a training in one process, that of a distributed one without a loss, and its workers."""
    loop = job(form).loop()
    run(loop)
    return loop, *play_distributed(job(form))[::2]


def test_a_distributed_training_is_that_of_one_process():
    """Bit by bit with the paper's form of network, which leaves sums in their order."""
    single, distributed, _ = both("flat")
    ours, theirs = distributed.tensors(), single.tensors()
    assert ours.keys() == theirs.keys()
    for name, part in ours.items():
        assert torch.equal(part, theirs[name]), name
    assert distributed.points == single.points
    assert distributed.assessed == single.assessed
    assert single.learner.broadcast_count.sum() == 2 * 2


def test_one_agent_and_its_controller_train_like_one_process():
    small_job = job()
    small_job = small_job._replace(settings=replace(small_job.settings, agents=1))
    single = small_job.loop()
    run(single)
    distributed, _, _ = play_distributed(small_job, {20: 1})
    assert checkpoint.digest(distributed.tensors()) == checkpoint.digest(single.tensors())
    assert distributed.points == single.points


def test_a_distributed_training_is_that_of_one_process_up_to_rounding_if_places_are_packed():
    single, distributed, _ = both("places")
    assert torch.equal(distributed.replay.store[0][:, :24], single.replay.store[0][:, :24])
    ours, theirs = (torch.tensor(loop.points[0].figures["critic_loss"]) for loop in (distributed, single))
    torch.testing.assert_close(ours, theirs, rtol=0.01, atol=0)


@settings(max_examples=3, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.data())
def test_deaths_cost_nothing_but_time(data):
    """Any worker at any call, several times, also while workers are restored; chunks of any length."""
    form = data.draw(st.sampled_from(["flat", "places"]))
    _, distributed, workers = both(form)
    deaths = data.draw(st.dictionaries(st.integers(1, workers.calls), st.integers(0, SMALL.agents), max_size=4))
    pace = tuple(data.draw(st.lists(st.floats(0.0, 0.3), min_size=1, max_size=4)))
    loop, coordinator, _ = play_distributed(job(form), deaths, pace)
    assert checkpoint.digest(loop.tensors()) == checkpoint.digest(distributed.tensors())
    assert loop.points == distributed.points
    assert loop.assessed == distributed.assessed
    assert bool(coordinator.recoveries) <= bool(deaths)


def test_a_training_begun_in_one_process_continues_distributed():
    loop, _, _ = play_distributed(job(), {90: 2}, rounds_before=7)
    assert checkpoint.digest(loop.tensors()) == checkpoint.digest(both("flat")[0].tensors())
    assert loop.assessed == both("flat")[0].assessed


def test_a_death_before_the_first_state():
    loop, _, _ = play_distributed(job(), {6: 0, 40: SMALL.agents})
    assert checkpoint.digest(loop.tensors()) == checkpoint.digest(both("flat")[1].tensors())


def test_every_loss_is_reported():
    _, _, workers = both("flat")
    _, coordinator, _ = play_distributed(job(), {workers.calls // 2: SMALL.agents, workers.calls: 0})
    assert len(coordinator.recoveries) == 2
    assert all(0 < loss.age_s < 1 and loss.took_s > 0 for loss in coordinator.recoveries)
    assert 0 < coordinator.recoveries[0].round < coordinator.recoveries[1].round <= SMALL.rounds


def test_a_worker_that_stays_dead_ends_the_training(monkeypatch):
    monkeypatch.setattr(worker_group, "RECOVERY_TIMEOUT_S", 1.0)
    with pytest.raises(TrainingError, match="a lost agent or controller was not replaced: died"):
        play_distributed(job(), {call: 1 for call in range(20, 2000)})


def test_a_worker_without_a_state_refuses_to_continue():
    with pytest.raises(StaleStateError):
        Agent(0).step(0)


@pytest.mark.parametrize("count", [1, 3])
def test_what_is_split_can_be_merged(count):
    small_job = job()
    small_job = small_job._replace(settings=replace(small_job.settings, agents=count))
    single = small_job.loop().tensors()
    parts = split_state(single, count, single)
    again = merge_states(parts, single)
    assert again.keys() == single.keys()
    for name, part in single.items():
        assert torch.equal(part, again[name]), name
    assert {name: part.shape for name, part in parts[0].items()} == {
        name: part.shape for name, part in small_job.loop(agent=0).tensors().items()
    }

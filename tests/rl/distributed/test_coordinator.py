"""Agents and controller apart are the loop of all, however the rounds are cut and whoever dies when."""

import pickle
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from coinfer import checkpoint
from coinfer.errors import TrainingError
from coinfer.rl.algorithms import cdo_dsac
from coinfer.rl.algorithms.cdo_dsac import TrainingJob
from coinfer.rl.core.loop import run
from coinfer.rl.distributed import coordinator
from coinfer.rl.distributed.coordinator import Coordinator, WorkerLostError
from coinfer.rl.distributed.states import merge_states, split_state
from coinfer.rl.distributed.workers import Agent, Controller, StaleStateError
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


class Here:
    """A group of workers in this process; everything passes through pickle, as between processes.

    Args:
        deaths: number of a call to the member that dies of it.
    """

    def __init__(self, job: TrainingJob, deaths: dict[int, int] | None = None):
        self.agents, self.deaths, self.calls = job.settings.agents, deaths or {}, 0
        self.workers = [self.made(i) for i in range(self.agents + 1)]

    def made(self, worker: int) -> Agent | Controller:
        return Agent(worker) if worker < self.agents else Controller()

    def call(self, worker, method, *given):
        self.calls += 1
        dies = self.deaths.get(self.calls)
        if dies is not None:
            self.workers[dies] = self.made(dies)
        failed = [part for part in given if isinstance(part, Exception)]
        try:
            if dies == worker or failed:
                raise WorkerLostError("died")
            result = getattr(self.workers[worker], method)(*pickle.loads(pickle.dumps(given)))
            return pickle.loads(pickle.dumps(result))
        except (WorkerLostError, StaleStateError) as error:
            return error

    def call_parts(self, worker, method, *given, parts):
        result = self.call(worker, method, *given)
        return [result] * parts if parts == 1 or isinstance(result, Exception) else result

    def wait(self, promises):
        for promise in promises:
            if isinstance(promise, Exception):
                raise WorkerLostError(str(promise))
        return list(promises)


def conducted(
    job: TrainingJob, deaths: dict[int, int] | None = None, pace: tuple[float, ...] = (0.02,), begun: int = 0
):
    """The loop and its coordinator after the last round; `pace` are the seconds between looks at the clock, in turn;
    `begun` rounds were played in one process before."""
    now = [0.0, 0]

    def clock() -> float:
        now[1] += 1
        now[0] += pace[now[1] % len(pace)]
        return now[0]

    workers = Here(job, deaths)
    coordinator, loop = Coordinator(workers, job, clock=clock, sleep=lambda _: None), job.loop()
    for _ in range(begun):
        loop.play()
    while loop.round < loop.settings.rounds:
        coordinator.play(loop)
    return loop, coordinator, workers


@cache
def alone(form: str):
    """As one loop of all, and apart without a loss."""
    loop = job(form).loop()
    run(loop)
    return loop, *conducted(job(form))[::2]


def test_apart_is_the_stacked_loop():
    """Bit by bit where the form of the network leaves the sums in their order: with the paper's."""
    whole, apart, _ = alone("flat")
    ours, theirs = apart.tensors(), whole.tensors()
    assert ours.keys() == theirs.keys()
    for name, part in ours.items():
        assert torch.equal(part, theirs[name]), name
    assert apart.points == whole.points
    assert apart.assessed == whole.assessed
    assert whole.learner.broadcast_count.sum() == 2 * 2


def test_one_agent_and_its_controller_are_the_loop_of_all():
    made = job()
    made = made._replace(settings=replace(made.settings, agents=1))
    whole = made.loop()
    run(whole)
    apart, _, _ = conducted(made, {20: 1})
    assert checkpoint.digest(apart.tensors()) == checkpoint.digest(whole.tensors())
    assert apart.points == whole.points


def test_apart_is_the_stacked_loop_up_to_rounding_where_places_are_packed():
    whole, apart, _ = alone("places")
    assert torch.equal(apart.replay.store[0][:, :24], whole.replay.store[0][:, :24])
    torch.testing.assert_close(
        torch.tensor(apart.points[0].figures["critic_loss"]), torch.tensor(whole.points[0].figures["critic_loss"]),
        rtol=0.01, atol=0,
    )  # fmt: skip


@settings(max_examples=6, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.data())
def test_deaths_cost_nothing_but_time(data):
    """Anybody at any call, several times, also while all are going back; chunks of any length."""
    form = data.draw(st.sampled_from(["flat", "places"]))
    _, apart, workers = alone(form)
    deaths = data.draw(st.dictionaries(st.integers(1, workers.calls), st.integers(0, SMALL.agents), max_size=4))
    pace = tuple(data.draw(st.lists(st.floats(0.0, 0.3), min_size=1, max_size=4)))
    found, coordinator, _ = conducted(job(form), deaths, pace)
    assert checkpoint.digest(found.tensors()) == checkpoint.digest(apart.tensors())
    assert found.points == apart.points
    assert found.assessed == apart.assessed
    assert bool(coordinator.recoveries) <= bool(deaths)


def test_what_was_begun_here_goes_on_there():
    found, _, _ = conducted(job(), {90: 2}, begun=7)
    assert checkpoint.digest(found.tensors()) == checkpoint.digest(alone("flat")[0].tensors())
    assert found.assessed == alone("flat")[0].assessed


def test_a_death_before_anything_was_kept():
    found, _, _ = conducted(job(), {6: 0, 40: SMALL.agents})
    assert checkpoint.digest(found.tensors()) == checkpoint.digest(alone("flat")[1].tensors())


def test_every_loss_is_told():
    _, _, workers = alone("flat")
    _, coordinator, _ = conducted(job(), {workers.calls // 2: SMALL.agents, workers.calls: 0})
    assert len(coordinator.recoveries) == 2
    assert all(0 < loss.age_s < 1 and loss.took_s > 0 for loss in coordinator.recoveries)
    assert 0 < coordinator.recoveries[0].round < coordinator.recoveries[1].round <= SMALL.rounds


def test_who_stays_dead_ends_the_training(monkeypatch):
    monkeypatch.setattr(coordinator, "RECOVERY_TIMEOUT_S", 1.0)
    with pytest.raises(TrainingError, match="a lost agent or controller was not replaced: died"):
        conducted(job(), {call: 1 for call in range(20, 2000)})


def test_a_member_that_has_nothing_refuses_to_go_on():
    with pytest.raises(StaleStateError):
        Agent(0).step(0)


@pytest.mark.parametrize("count", [1, 3])
def test_what_is_split_can_be_merged(count):
    made = job()
    made = made._replace(settings=replace(made.settings, agents=count))
    whole = made.loop().tensors()
    parts = split_state(whole, count, whole)
    again = merge_states(parts, whole)
    assert again.keys() == whole.keys()
    for name, part in whole.items():
        assert torch.equal(part, again[name]), name
    assert {name: part.shape for name, part in parts[0].items()} == {
        name: part.shape for name, part in made.loop(agent=0).tensors().items()
    }

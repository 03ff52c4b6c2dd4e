"""The effects around the pure core: overload, cancellation and drain on a real event loop."""

import asyncio
import math
import threading
from collections import Counter
from collections.abc import Callable

import pytest

from coinfer.physics.batching import BatchTimes
from coinfer.runtime.clock import VirtualClock, WallClock
from coinfer.runtime.edge.admission import is_idle
from coinfer.runtime.edge.node_state import Ended
from coinfer.runtime.edge.scheduler import Batch, Scheduler
from coinfer.runtime.executor import Abort
from coinfer.runtime.protocol.messages import WireError

CLOCK = WallClock()


def sleep(duration_s):
    return lambda abort: abort.event.wait(duration_s)


async def settled(scheduler):
    while not is_idle(scheduler.state):
        await asyncio.sleep(0.005)


class Workshop:
    """Requests come open loop, and work takes `service_s`, on a clock that goes on only when all has been done and told
    that was due until then; so the machine's speed does not matter."""

    def __init__(self, queue: int, service_s: float):
        self.clock = VirtualClock()
        self.scheduler = Scheduler(1, queue, self.clock)
        self.service_s = service_s
        self.ends: list[tuple[float, threading.Event]] = []
        """When each job at work is through, and what it waits for."""
        self.answers: list[tuple[str, float]] = []
        """What became of each request, and the seconds that it took."""

    def work(self, abort: Abort) -> None:
        done = threading.Event()
        self.ends.append((self.clock.now_s() + self.service_s, done))
        assert done.wait(60)

    async def request(self, deadline_s: float) -> None:
        began_s, what = self.clock.now_s(), "answered"
        try:
            await self.scheduler.run("k", began_s + deadline_s, self.work)
        except WireError as error:
            what = error.reason
        self.answers.append((what, self.clock.now_s() - began_s))

    async def quiet(self) -> None:
        """Until every job that may run is at work, and everybody was told what is decided."""
        while True:
            state = self.scheduler.state
            answered = sum(what == "answered" for what, _ in self.answers)
            told = (answered, len(self.answers) - answered) == (state.counts.finished, state.counts.refused)
            if told and len(state.running) == len(self.ends) and not state.arriving:
                return
            await asyncio.sleep(0.001)

    async def until(self, at_s: float) -> None:
        """Lets time pass, job by job."""
        await self.quiet()
        while self.ends and self.ends[0][0] <= at_s:
            end_s, done = self.ends.pop(0)
            self.clock.sleep(end_s - self.clock.now_s())
            finished = self.scheduler.state.counts.finished
            done.set()
            while self.scheduler.state.counts.finished == finished:
                await asyncio.sleep(0)
            await self.quiet()
        self.clock.sleep(at_s - self.clock.now_s())


@pytest.mark.parametrize("over", [3, 6])
@pytest.mark.parametrize(("queue", "deadline_s"), [(4, 0.5), (40, 0.26)])
def test_goodput_under_overload(over: int, queue: int, deadline_s: float):
    """At `over` times the capacity the worker is never idle and all that it does comes in time, whether the queue or
    the deadline is the tighter limit."""

    async def run() -> Workshop:
        shop, tasks = Workshop(queue, service_s=0.05), []
        for i in range(40 * over):
            await shop.until(i * shop.service_s / over)
            tasks.append(asyncio.ensure_future(shop.request(deadline_s)))
            await asyncio.sleep(0)
        await shop.until(100.0)
        await asyncio.gather(*tasks)
        shop.scheduler.close()
        return shop

    shop = asyncio.run(run())
    said, counts = Counter(what for what, _ in shop.answers), shop.scheduler.state.counts
    assert said["answered"] >= 40, "the worker was always at it"
    assert all(took_s <= deadline_s + 1e-9 for what, took_s in shop.answers if what == "answered")
    assert said["queue_full"] + said["hopeless"] + said["expired"] == counts.refused > 40 * (over - 2)
    assert said["queue_full" if queue == 4 else "hopeless"] > 0


def test_a_worker_goes_on_without_the_event_loop():
    """Four jobs run one after the other while the loop is held up."""
    ran: list[int] = []
    over = threading.Event()

    def job(number: int) -> Callable[[Abort], None]:
        def work(abort: Abort) -> None:
            ran.append(number)
            if number == 3:
                over.set()

        return work

    async def run() -> bool:
        scheduler = Scheduler(1, 4, CLOCK)
        tasks = [asyncio.ensure_future(scheduler.run("k", math.inf, job(number))) for number in range(4)]
        await asyncio.sleep(0)
        went_on = over.wait(60)
        await asyncio.gather(*tasks)
        scheduler.close()
        return went_on

    assert asyncio.run(run())
    assert ran == [0, 1, 2, 3]


def test_jobs_known_to_be_quick_are_done_on_the_event_loop():
    clock = VirtualClock()

    def job(duration_s: float) -> Callable[[Abort], bool]:
        def work(abort: Abort) -> bool:
            clock.sleep(duration_s)
            return threading.current_thread() is threading.main_thread()

        return work

    def fail(abort: Abort) -> None:
        raise ZeroDivisionError

    async def run():
        scheduler = Scheduler(1, 4, clock, quick_s=0.01)
        times_s = {"short": [0.001] * 3, "long": [0.5] * 3, "grows": [0.001, 0.5, 0.5, 0.5]}
        here = {
            kind: [(await scheduler.run(kind, math.inf, job(s)))[0] for s in each] for kind, each in times_s.items()
        }
        batch = Batch(BatchTimes((1, 2), (1.0, 1.2)), None, lambda items, aborts: items)
        here["batched"] = [(await scheduler.run("short", math.inf, job(0.001), batch=batch))[0]]
        with pytest.raises(ZeroDivisionError):
            await scheduler.run("short", math.inf, fail)
        scheduler.drain()
        with pytest.raises(WireError, match="shutting down"):
            await scheduler.run("short", math.inf, job(0.001))
        scheduler.close()
        return here, scheduler.state.counts

    here, counts = asyncio.run(run())
    assert here["short"] == [False, True, True]
    assert not any(here["long"] + here["batched"])
    assert here["grows"] == [False, True, True, False], "one long run may be chance"
    assert (counts.received, counts.finished, counts.failed, counts.refused) == (13, 11, 1, 1)


def test_a_cancelled_job_stops_and_frees_its_worker():
    told: list[bool] = []

    async def run():
        scheduler = Scheduler(1, 4, CLOCK)
        work = sleep(60)
        long = asyncio.ensure_future(scheduler.run("k", math.inf, lambda abort: told.append(work(abort))))
        waiting = asyncio.ensure_future(scheduler.run("k", math.inf, sleep(60)))
        await asyncio.sleep(0.05)
        waiting.cancel()
        long.cancel()
        value, _ = await scheduler.run("k", math.inf, lambda abort: "next")
        await settled(scheduler)
        scheduler.close()
        return value, scheduler

    value, scheduler = asyncio.run(run())
    assert value == "next"
    assert told == [True], "the job at work was told to stop, and the one that waited never began"
    assert (scheduler.state.counts.cancelled, scheduler.state.counts.finished) == (2, 1)
    assert not scheduler._entries


def test_what_expires_in_the_queue_is_told_then_and_not_when_a_worker_is_free():
    async def run():
        scheduler = Scheduler(1, 4, CLOCK)
        long = asyncio.ensure_future(scheduler.run("long", math.inf, sleep(60)))
        await asyncio.sleep(0.02)
        with pytest.raises(WireError) as caught:
            await scheduler.run("short", CLOCK.now_s() + 0.1, sleep(0))
        still_running = not long.done()
        long.cancel()
        await settled(scheduler)
        scheduler.close()
        return caught.value, still_running

    error, still_running = asyncio.run(run())
    assert (error.code, error.reason, still_running) == ("DEADLINE_EXCEEDED", "expired", True)


def test_work_that_runs_past_its_deadline_is_stopped_and_its_caller_is_told():
    async def run():
        scheduler = Scheduler(1, 4, CLOCK)
        with pytest.raises(WireError) as caught:
            await scheduler.run("k", CLOCK.now_s() + 0.05, sleep(60))
        await settled(scheduler)
        scheduler.close()
        return caught.value, scheduler

    error, scheduler = asyncio.run(run())
    assert (error.code, error.reason) == ("DEADLINE_EXCEEDED", "expired")
    assert not scheduler._entries


def test_waiting_for_a_worker_is_told_apart_from_the_work():
    clock, begun, over = VirtualClock(), threading.Event(), threading.Event()

    def work(abort: Abort) -> str:
        begun.set()
        assert over.wait(60)
        clock.sleep(0.5)
        return "first"

    async def run():
        scheduler = Scheduler(1, 4, clock)
        first = asyncio.ensure_future(scheduler.run("k", math.inf, work))
        second = asyncio.ensure_future(scheduler.run("k", math.inf, lambda abort: "second"))
        await asyncio.to_thread(begun.wait, 60)
        clock.sleep(0.25)
        over.set()
        found = await asyncio.gather(first, second)
        scheduler.close()
        return found

    assert asyncio.run(run()) == [("first", 0.0), ("second", 0.75)]


def test_failures_reach_their_caller_only():
    async def run():
        scheduler = Scheduler(2, 4, CLOCK)

        def fail(abort):
            raise ZeroDivisionError

        results = await asyncio.gather(
            scheduler.run("k", math.inf, fail),
            scheduler.run("k", math.inf, lambda abort: 1),
            return_exceptions=True,
        )
        scheduler.close()
        return results, scheduler.state.counts

    (failed, (value, _)), counts = asyncio.run(run())
    assert isinstance(failed, ZeroDivisionError)
    assert value == 1
    assert (counts.failed, counts.finished) == (1, 1)


def test_draining_loses_nothing():
    ran: list[int] = []

    async def run():
        scheduler = Scheduler(1, 10, CLOCK)
        tasks = [
            asyncio.ensure_future(scheduler.run("k", math.inf, lambda abort, number=number: ran.append(number)))
            for number in range(8)
        ]
        await asyncio.sleep(0)
        scheduler.drain()
        with pytest.raises(WireError, match="shutting down"):
            await scheduler.run("k", math.inf, sleep(0))
        done = await asyncio.gather(*tasks)
        scheduler.close()
        return done, scheduler

    done, scheduler = asyncio.run(run())
    assert len(done) == scheduler.state.counts.finished == 8
    assert is_idle(scheduler.state)
    assert ran == sorted(ran), "first come, first served"


def test_closing_between_two_jobs_leaves_no_caller_without_an_answer(monkeypatch: pytest.MonkeyPatch):
    """A worker is through with the first job and has planned the second when all is closed."""
    ran: list[str] = []

    async def run():
        scheduler = Scheduler(1, 4, CLOCK)
        follow = scheduler._advance

        def close_after(events):
            found = follow(events)
            if any(isinstance(event, Ended) for event in events):
                scheduler.close()
            return found

        monkeypatch.setattr(scheduler, "_advance", close_after)
        jobs = (scheduler.run("k", math.inf, lambda abort, name=name: ran.append(name) or name) for name in "abc")
        return await asyncio.gather(*jobs, return_exceptions=True)

    (first, _), second, third = asyncio.run(run())
    assert first == "a"
    assert ran == ["a"]
    for error in (second, third):
        assert (error.code, error.reason) == ("UNAVAILABLE", "draining")


def test_what_is_planned_or_comes_when_all_is_closed_is_refused():
    async def run():
        scheduler = Scheduler(2, 4, CLOCK)
        running = [asyncio.ensure_future(scheduler.run("k", math.inf, sleep(60))) for _ in range(2)]
        waiting = [asyncio.ensure_future(scheduler.run("k", math.inf, sleep(60))) for _ in range(2)]
        await asyncio.sleep(0)
        (planned, *_), _ = scheduler._advance([Ended(0, CLOCK.now_s(), True)])
        scheduler.close()
        scheduler._start(planned, asyncio.get_running_loop())
        late = scheduler.run("k", math.inf, sleep(60))
        found = await asyncio.gather(*running, *waiting, late, return_exceptions=True)
        return found, scheduler

    found, scheduler = asyncio.run(run())
    assert [error.reason for error in found if isinstance(error, WireError)] == ["draining"] * 3
    assert not scheduler._entries

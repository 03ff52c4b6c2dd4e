"""The effects around the pure core: overload, cancellation and drain on a real event loop, service by sleeping."""

import asyncio
import math
from collections import Counter

import pytest

from coinfer.runtime.clock import WallClock
from coinfer.runtime.messages import WireError
from coinfer.runtime.node import is_idle
from coinfer.runtime.scheduler import Scheduler

CLOCK = WallClock()


def sleep(duration_s):
    return lambda abort: abort.event.wait(duration_s)


async def settled(scheduler):
    while not is_idle(scheduler.state):
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("over", [3, 6])
def test_goodput_under_overload(over):
    """Open loop at `over` times the capacity: the worker's time goes into answers that come in time. Service is sleep,
    and counts as long as it took, so other work on the cores disturbs little."""
    service_s, deadline_s, duration_s = 0.05, 0.5, 2.0

    def work(abort):
        began_s = CLOCK.now_s()
        abort.event.wait(service_s)
        return CLOCK.now_s() - began_s

    async def request(scheduler):
        """(what became of it, seconds of the worker)"""
        began_s = CLOCK.now_s()
        try:
            took_s, _ = await scheduler.run("k", began_s + deadline_s, work)
        except WireError as error:
            return error.reason, 0.0
        return ("in time" if CLOCK.now_s() - began_s <= deadline_s else "late"), took_s

    async def run():
        scheduler, tasks = Scheduler(1, 4, CLOCK), []
        began_s = CLOCK.now_s()
        while (now_s := CLOCK.now_s()) < began_s + duration_s:
            due = 1 + int((now_s - began_s) * over / service_s)
            tasks += [asyncio.ensure_future(request(scheduler)) for _ in range(due - len(tasks))]
            await asyncio.sleep(service_s / over / 2)
        ends = await asyncio.gather(*tasks)
        scheduler.close()
        return ends, CLOCK.now_s() - began_s, scheduler.state.counts

    ends, took_s, counts = asyncio.run(run())
    said = Counter(what for what, _ in ends)
    goodput = sum(seconds for what, seconds in ends if what == "in time") / took_s
    print(f"{over} x overload: {goodput:.3f} of the worker's time went into answers in time; {dict(said)}")
    assert goodput >= 0.95
    assert said["queue_full"] + said["hopeless"] + said["expired"] == counts.refused > 0


def test_a_cancelled_job_stops_and_frees_its_worker():
    async def run():
        scheduler = Scheduler(1, 4, CLOCK)
        long = asyncio.ensure_future(scheduler.run("k", math.inf, sleep(60)))
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
    async def run():
        scheduler = Scheduler(1, 10, CLOCK)
        tasks = [asyncio.ensure_future(scheduler.run("k", math.inf, sleep(0.02))) for _ in range(8)]
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
    waits = [queue_s for _, queue_s in done]
    assert waits == sorted(waits), "first come, first served"

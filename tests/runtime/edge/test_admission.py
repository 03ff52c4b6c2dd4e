"""The node's brain, without sockets, threads or sleeps."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coinfer.physics.batching import ALONE, BatchTimes
from coinfer.runtime.edge.admission import (
    FORGET_HALF_LIFE_S,
    after_quick,
    apply,
    backlog_s,
    is_idle,
    is_quick,
    load,
    plan,
    wake_s,
)
from coinfer.runtime.edge.node_state import Admit, Arrived, Cancelled, Drained, Ended, Job, NodeState, Refuse, Start
from coinfer.runtime.edge.service_times import MAX_KINDS, ServiceTimes
from coinfer.runtime.margin import FIRST_MARGIN, LEAST_MARGIN, MISSED, MOST_MARGIN, after_wait

GAINS = BatchTimes((1, 2, 4, 8), (1.0, 1.2, 1.6, 2.4))


def carried_out(state, now_s):
    """The state after all that is to do now, and what that was."""
    commands = plan(state, now_s)
    for command in commands:
        state = apply(state, command)
    return state, commands


def arrived(state, id, now_s=0.0, deadline_s=math.inf, kind="k"):
    return carried_out(apply(state, Arrived(Job(id, kind, deadline_s))), now_s)


def served(state, id, start_s, end_s, kind="k"):
    """A job that came to an idle node and ran from start to end."""
    state, _ = arrived(state, id, start_s, kind=kind)
    return carried_out(apply(state, Ended(id, end_s, ok=True)), end_s)[0]


def test_workers_first_then_the_queue_then_refusal():
    state = NodeState(workers=2, queue=1)
    said = []
    for id in range(4):
        state, commands = arrived(state, id)
        said += commands
    assert said[:3] == [Start(0, 0.0), Start(1, 0.0), Admit(2)]
    assert (said[3].id, said[3].reason) == (3, "queue_full")
    assert load(state, 0.0).room == 0
    state, commands = carried_out(apply(state, Ended(0, 1.0, ok=True)), 1.0)
    assert commands == (Start(2, 1.0),)
    assert load(state, 1.0).room == 1


@pytest.mark.parametrize("ok", [True, False])
def test_a_job_done_at_once_counts_as_if_a_worker_had_done_it(ok):
    state = served(NodeState(workers=1, queue=1), 0, 0.0, 0.001)
    by_worker = apply(arrived(state, 1, 1.0)[0], Ended(1, 1.002, ok=ok))
    assert after_quick(state, "k", 1.0, 1.002, ok) == by_worker


def test_only_a_kind_known_as_short_is_quick_and_only_if_it_delays_nobody():
    idle = served(served(NodeState(workers=1, queue=1), 0, 0.0, 0.001), 1, 0.5, 0.7, kind="long")
    short = Job(9, "k", math.inf)
    assert is_quick(idle, short, 1.0, 0.002)
    assert not is_quick(idle, short, 1.0, 0.001)
    assert not is_quick(idle, short._replace(kind="long"), 1.0, 0.002)
    assert not is_quick(idle, short._replace(kind="new"), 1.0, 0.002)
    assert not is_quick(idle, short._replace(deadline_s=0.9), 1.0, 0.002), "it is refused, as ever"
    assert not is_quick(apply(idle, Drained()), short, 1.0, 0.002)
    assert not is_quick(arrived(idle, 2, 1.0)[0], short, 1.0, 0.002), "the worker is busy"


def test_a_refusal_says_when_a_place_is_free():
    state = served(NodeState(workers=1, queue=0), 0, 0.0, 0.1)
    state, _ = arrived(state, 1, now_s=1.0)
    state, (refused,) = arrived(state, 2, now_s=1.03)
    assert refused.pushback_s == pytest.approx(0.07)


def test_hopeless_requests_are_refused_at_once_and_hopeful_ones_are_not():
    state = served(NodeState(workers=1, queue=5), 0, 0.0, 0.1)
    assert arrived(state, 1, now_s=0.1, deadline_s=0.205)[1][0].reason == "hopeless"
    assert arrived(state, 1, now_s=0.1, deadline_s=0.215)[1] == (Start(1, 0.1),)
    assert arrived(state, 1, now_s=0.1, deadline_s=0.1)[1][0].reason == "expired"


def test_the_queue_ahead_counts_towards_hopelessness():
    state = served(NodeState(workers=1, queue=5), 0, 0.0, 0.1)
    for id in (1, 2):
        state, _ = arrived(state, id, now_s=0.1)
    assert backlog_s(state, 0.1) == pytest.approx(0.2)
    assert arrived(state, 3, now_s=0.1, deadline_s=0.45)[1][0].reason == "hopeless"
    assert arrived(state, 3, now_s=0.1, deadline_s=0.47)[1] == (Admit(3, 0.1, pytest.approx(0.2)),)


def test_the_backlog_is_shared_by_the_workers():
    """Two run, for 0.3 s each, and have 0.2 s left; two wait: 1 s of work for two workers."""
    state = served(NodeState(workers=2, queue=5), 0, 0.0, 0.3)
    for id in range(1, 5):
        state, _ = arrived(state, id, now_s=1.0)
    assert backlog_s(state, 1.1) == pytest.approx((2 * 0.2 + 2 * 0.3) / 2)
    assert load(state, 1.1).backlog_s == backlog_s(state, 1.1)


def test_what_expired_in_the_queue_never_starts():
    state = NodeState(workers=1, queue=5)
    state, _ = arrived(state, 0)
    state, _ = arrived(state, 1, deadline_s=1.0)
    assert wake_s(state) == 1.0
    assert plan(state, 0.99) == ()
    state, (refused,) = carried_out(state, 1.0)
    assert (refused.id, refused.reason) == (1, "expired")
    assert wake_s(state) == math.inf


def test_one_slow_spell_does_not_lock_a_kind_out_for_ever():
    state = served(NodeState(workers=1, queue=1), 0, 0.0, 10.0)
    assert arrived(state, 1, now_s=11.0, deadline_s=12.0)[1][0].reason == "hopeless"
    later_s = 10.0 + 4 * FORGET_HALF_LIFE_S
    assert arrived(state, 1, now_s=later_s, deadline_s=later_s + 1.0)[1] == (Start(1, later_s),)


def test_a_cold_first_run_is_forgotten_with_the_next():
    state = served(NodeState(workers=1, queue=1), 0, 0.0, 10.0)
    state = served(state, 1, 20.0, 20.1)
    assert arrived(state, 2, now_s=21.0, deadline_s=21.2)[1] == (Start(2, 21.0),)


def test_a_new_kind_is_expected_to_take_what_others_take():
    state = served(NodeState(workers=1, queue=9), 0, 0.0, 0.2, kind="a")
    state, _ = arrived(state, 1, now_s=1.0, kind="new")
    assert backlog_s(state, 1.0) == pytest.approx(0.2)


def test_draining_finishes_what_was_admitted_and_takes_nothing_new():
    state = NodeState(workers=1, queue=5)
    for id in (0, 1):
        state, _ = arrived(state, id)
    state = apply(state, Drained())
    state, (refused,) = arrived(state, 2)
    assert (refused.reason, load(state, 0.0).room) == ("draining", 0)
    state, commands = carried_out(apply(state, Ended(0, 1.0, ok=True)), 1.0)
    assert commands == (Start(1, 1.0),)
    assert not is_idle(state)
    assert is_idle(apply(state, Ended(1, 2.0, ok=True)))


def test_an_abandoned_job_holds_its_worker_until_it_ends():
    state, _ = arrived(NodeState(workers=1, queue=5), 0)
    state = apply(state, Cancelled(0))
    state, commands = arrived(state, 1)
    assert commands == (Admit(1),)
    state, commands = carried_out(apply(state, Ended(0, 1.0, ok=False)), 1.0)
    assert commands == (Start(1, 1.0),)
    assert (state.counts.cancelled, state.counts.failed) == (1, 0)


def test_events_about_unknown_jobs_change_nothing():
    state, _ = arrived(NodeState(workers=1, queue=5), 0)
    for event in (Cancelled(9), Ended(9, 1.0, ok=True), Refuse(9, "expired", 1.0), Admit(9), Start(9, 1.0)):
        assert apply(state, event) == state


def test_memory_of_kinds_is_bounded_and_forgets_the_oldest():
    state = NodeState(workers=1, queue=1)
    for id in range(MAX_KINDS + 10):
        state = served(state, id, float(id), id + 0.5, kind=id)
    assert set(state.service) == set(range(10, MAX_KINDS + 10))


@settings(deadline=None, max_examples=50)
@given(
    service_s=st.floats(0.001, 0.1),
    over=st.floats(1.5, 6.0),
    workers=st.integers(1, 3),
    queue=st.integers(1, 16),
    slack=st.floats(3.0, 20.0),
)
def test_goodput_survives_overload(service_s, over, workers, queue, slack):
    """Open-loop overload on the pure core: once service times are known, workers only run what comes in time."""
    state, ends, starts, now_s, in_time = NodeState(workers, queue), [], {}, 0.0, 0
    gap_s, deadlines = service_s / workers / over, {}
    arrivals = 400
    for id in range(arrivals):
        now_s = id * gap_s
        while ends and ends[0][0] <= now_s:
            end_s, ended = ends.pop(0)
            in_time += end_s <= deadlines[ended]
            state, commands = carried_out(apply(state, Ended(ended, end_s, ok=True)), end_s)
            for c in commands:
                if isinstance(c, Start):
                    ends.append((end_s + service_s, c.id))
            ends.sort()
        deadlines[id] = now_s + slack * service_s
        state, commands = arrived(state, id, now_s, deadlines[id])
        for c in commands:
            if isinstance(c, Start):
                starts[c.id] = now_s
                ends.append((now_s + service_s, c.id))
        ends.sort()
    capacity = now_s / service_s * workers
    assert in_time >= 0.95 * capacity - 2 * workers


class Node(RuleBasedStateMachine):
    """Any order of events: nothing is lost, nothing overtakes, no limit is passed."""

    @initialize(workers=st.integers(1, 3), queue=st.integers(0, 4))
    def begin(self, workers, queue):
        self.state = NodeState(workers, queue)
        self.now_s = 0.0
        self.next_id = 0
        self.started = []
        self.deadlines = {}
        self.kinds = {}
        self.draining = False

    def _carry_out(self):
        commands = plan(self.state, self.now_s)
        for command in commands:
            if isinstance(command, Start):
                assert all(self.now_s < self.deadlines[id] for id in command.ids)
                assert len({self.kinds[id] for id in command.ids}) == 1
                self.started.extend(command.ids)
            self.state = apply(self.state, command)
        assert plan(self.state, self.now_s) == ()

    @rule(kind=st.integers(0, 2), left_s=st.sampled_from([0.0, 0.1, 1.0, math.inf]), batch=st.integers(1, 3))
    def arrive(self, kind, left_s, batch):
        for _ in range(batch):
            self.deadlines[self.next_id] = self.now_s + left_s
            self.kinds[self.next_id] = kind
            times = GAINS if kind == 0 else ALONE
            self.state = apply(self.state, Arrived(Job(self.next_id, kind, self.now_s + left_s, times=times)))
            self.next_id += 1
        self._carry_out()

    @precondition(lambda self: self.state.running)
    @rule(pick=st.integers(0, 99), took_s=st.floats(0.0, 2.0), ok=st.booleans())
    def end(self, pick, took_s, ok):
        self.now_s += took_s
        chosen = self.state.running[pick % len(self.state.running)]
        first = chosen.job.id if chosen.first is None else chosen.first
        for run in self.state.running:
            if first in (run.job.id, run.first):
                self.state = apply(self.state, Ended(run.job.id, self.now_s, ok))
        self._carry_out()

    @precondition(lambda self: self.next_id)
    @rule(pick=st.integers(0, 99))
    def cancel(self, pick):
        self.state = apply(self.state, Cancelled(pick % self.next_id))
        self._carry_out()

    @rule(passed_s=st.floats(0.0, 1.0))
    def wait(self, passed_s):
        self.now_s += passed_s
        self._carry_out()

    @rule()
    def drain(self):
        self.state = apply(self.state, Drained())

    @invariant()
    def all_are_accounted_for(self):
        s, c = self.state, self.state.counts
        here = len(s.arriving) + len(s.waiting) + len(s.running)
        assert c.received == c.finished + c.failed + c.refused + c.cancelled + here == self.next_id

    @invariant()
    def limits_hold(self):
        assert self.state.free_workers >= 0
        assert len(self.state.waiting) <= self.state.queue
        assert not self.state.arriving
        assert not self.state.waiting or self.state.free_workers == 0

    @invariant()
    def first_come_first_served(self):
        for kind in range(3):
            started = [id for id in self.started if self.kinds[id] == kind]
            assert started == sorted(started)

    @invariant()
    def the_report_is_honest(self):
        report = load(self.state, self.now_s)
        assert report.queued == len(self.state.waiting)
        free = self.state.free_workers + self.state.queue - len(self.state.waiting)
        assert report.room == (0 if self.state.draining else free)
        assert report.backlog_s >= 0


Node.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestNode = Node.TestCase


def test_the_smallest_priority_number_is_served_first():
    state = NodeState(workers=1, queue=5)
    for id, priority in enumerate((10, 10, 10, 1, 1)):
        state, _ = carried_out(apply(state, Arrived(Job(id, "kind", math.inf, priority))), 0.0)
    served = []
    while state.running:
        served.append(state.running[0].job.id)
        state, _ = carried_out(apply(state, Ended(served[-1], 1.0, ok=True)), 1.0)
    assert served == [0, 3, 4, 1, 2]


def test_a_job_waits_only_for_those_that_are_served_before_it():
    state = NodeState(workers=1, queue=5, service={"kind": ServiceTimes((2.0,), 0.0)})
    for id, priority in enumerate((10, 10, 20)):
        state, _ = carried_out(apply(state, Arrived(Job(id, "kind", math.inf, priority))), 0.0)
    assert [backlog_s(state, 0.0, priority) for priority in (1, 10, 20)] == [2.0, 4.0, 6.0]


@pytest.mark.parametrize("spread", [0.05, 0.2])
def test_the_margin_of_waits_follows_how_far_forecasts_err(spread: float):
    rng, margin = random.Random(1), LEAST_MARGIN
    ratios = [rng.gauss(1.0, spread) for _ in range(30_000)]
    missed = 0
    for i, ratio in enumerate(ratios):
        missed += i > 10_000 and ratio > margin
        margin = after_wait(margin, ratio)
        assert LEAST_MARGIN <= margin <= MOST_MARGIN
    assert missed / 20_000 <= 2 * MISSED
    assert abs(margin - max(1 + 3.09 * spread, LEAST_MARGIN)) < 0.12  # the quantile of a normal distribution


def test_what_waits_longer_than_was_forecast_makes_the_next_refusals_earlier():
    """Jobs take twice as long as those before: what is then admitted is asked to have more time."""
    state = served(NodeState(workers=1, queue=5), 0, 0.0, 0.1)
    for id in (1, 2, 3):
        state, _ = arrived(state, id, now_s=0.1, deadline_s=10.0)
    for id, now_s in ((1, 0.3), (2, 0.5), (3, 0.7)):
        state, _ = carried_out(apply(state, Ended(id, now_s, ok=True)), now_s)
    assert state.margin > FIRST_MARGIN
    assert is_idle(state)


@pytest.mark.parametrize("end", [Ended(2, 0.35, ok=False, too_late=True), Ended(2, 0.5, ok=True)])
def test_an_admitted_job_that_is_late_all_the_same_makes_the_next_refusals_earlier(end: Ended):
    state = served(NodeState(workers=1, queue=5), 0, 0.0, 0.1)
    state, _ = arrived(state, 1, now_s=0.1)
    state, _ = arrived(state, 3, now_s=0.1)
    state, _ = arrived(state, 2, now_s=0.1, deadline_s=0.48)
    for id, now_s in ((1, 0.2), (3, 0.3)):
        state, _ = carried_out(apply(state, Ended(id, now_s, ok=True)), now_s)
    before = state.margin
    assert apply(state, end).margin > before
    assert apply(state, Ended(2, 0.4, ok=True)).margin == before


def busy_with(jobs: int, *, deadline_s: float = math.inf, times: BatchTimes = GAINS) -> NodeState:
    """One worker that knows that a job takes 0.1 s and has just begun with one, behind which jobs 1, 2, ... wait."""
    state = served(NodeState(workers=1, queue=20), 100, -0.1, 0.0)
    for id in range(jobs + 1):
        job = Job(id, "k", deadline_s if id else math.inf, times=times)
        state, _ = carried_out(apply(state, Arrived(job)), 0.0)
    return state


def test_jobs_of_one_kind_that_wait_run_together_and_each_counts():
    state, commands = carried_out(apply(busy_with(4), Ended(0, 0.1, ok=True)), 0.1)
    assert commands == (Start(1, 0.1, (2, 3, 4)),)
    assert state.free_workers == 0
    assert backlog_s(state, 0.1) == pytest.approx(0.16)
    for id, ok in ((1, True), (2, False), (3, True), (4, True)):
        state = apply(state, Ended(id, 0.26, ok))
    assert is_idle(state)
    assert (state.counts.finished, state.counts.failed) == (5, 1)
    assert state.service["k"].recent_s[-1] == pytest.approx(0.1), "what one takes alone"


def test_what_waits_counts_as_the_batches_in_which_it_will_run():
    assert backlog_s(busy_with(8), 0.0) == pytest.approx(0.1 + 0.24)
    assert backlog_s(busy_with(8, times=ALONE), 0.0) == pytest.approx(0.1 + 0.8)


def test_no_batch_where_it_would_make_a_job_late():
    _, commands = carried_out(apply(busy_with(4, deadline_s=0.7), Ended(0, 0.1, ok=True)), 0.1)
    assert commands == (Start(1, 0.1, (2, 3, 4)),)
    late = busy_with(4)
    late = late._replace(waiting=tuple(job._replace(deadline_s=0.225) if job.id == 1 else job for job in late.waiting))
    _, commands = carried_out(apply(late, Ended(0, 0.1, ok=True)), 0.1)
    assert commands == (Start(1, 0.1),), "with another one, job 1 might end after its deadline"


def test_others_go_on_if_one_of_a_batch_gives_up():
    state, _ = carried_out(apply(busy_with(2), Ended(0, 0.1, ok=True)), 0.1)
    state = apply(state, Cancelled(1))
    assert state.free_workers == 0
    for id in (1, 2):
        state = apply(state, Ended(id, 0.3, ok=True))
    assert (state.counts.cancelled, state.counts.finished) == (1, 3)


def test_what_runs_past_its_deadline_is_stopped_and_known_to_take_that_long():
    state, _ = arrived(NodeState(workers=1, queue=4), 0, now_s=0.0, deadline_s=0.3)
    assert (wake_s(state), plan(state, 0.29)) == (0.3, ())
    state, (stopped,) = carried_out(state, 0.3)
    assert (stopped.id, stopped.reason) == (0, "expired")
    assert (state.free_workers, plan(state, 0.31), wake_s(state)) == (0, (), math.inf), "until the worker has stopped"
    state = apply(state, Ended(0, 0.32, ok=False))
    assert (state.free_workers, state.counts.cancelled, state.counts.refused) == (1, 1, 0)
    state, (refused,) = arrived(state, 1, now_s=0.4, deadline_s=0.7)
    assert (refused.id, refused.reason) == (1, "hopeless")


def test_a_job_that_its_caller_gave_up_before_its_deadline_says_nothing_of_its_time():
    state, _ = arrived(NodeState(workers=1, queue=4), 0, now_s=0.0, deadline_s=0.3)
    state = apply(apply(state, Cancelled(0)), Ended(0, 0.2, ok=False))
    assert state.service == {}

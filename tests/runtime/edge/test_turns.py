"""Callers take turns in an edge node's queue."""

import math

from tests.runtime.edge.test_admission import carried_out, served

from coinfer.runtime.edge.admission import apply, backlog_s
from coinfer.runtime.edge.node_state import Arrived, Ended, Job, NodeState, Refuse
from coinfer.runtime.margin import FIRST_MARGIN


def of_callers(state, callers, first=0):
    """The state once jobs of these callers have come, and what became of each."""
    said = []
    for id, caller in enumerate(callers, first):
        state, commands = carried_out(apply(state, Arrived(Job(id, "k", math.inf, caller=caller))), 0.0)
        said += commands
    return state, said


def test_callers_take_turns():
    state, _ = of_callers(NodeState(workers=1, queue=9), "aaaaabb")
    assert [job.id for job in state.waiting] == [1, 5, 2, 6, 3, 4]
    state, _ = carried_out(apply(state, Ended(0, 1.0, ok=True)), 1.0)
    state, _ = of_callers(state, "c", first=7)
    assert [job.id for job in state.waiting] == [5, 2, 7, 6, 3, 4]


def test_a_job_waits_only_for_those_whose_turn_comes_first():
    state = served(NodeState(workers=1, queue=9), 0, 0.0, 1.0)
    state, _ = of_callers(state, "aaaa", first=1)
    assert [backlog_s(state, 0.0, 10, caller) for caller in ("b", "a", None)] == [2.0, 4.0, 4.0]


def test_in_a_full_queue_who_has_most_gives_way_to_who_has_less():
    state, _ = of_callers(NodeState(workers=1, queue=4), "aaaaa")
    state, said = of_callers(state, "abbb", first=5)
    lost = [(command.id, command.reason) for command in said if isinstance(command, Refuse)]
    assert lost == [(5, "queue_full"), (4, "queue_full"), (3, "queue_full"), (8, "queue_full")]
    assert [job.id for job in state.waiting] == [1, 6, 2, 7]
    assert state.margin == FIRST_MARGIN, "nobody was promised too much"
    urgent, _ = carried_out(apply(state, Arrived(Job(9, "k", math.inf, priority=1, caller="c"))), 0.0)
    late, (refused,) = carried_out(apply(state, Arrived(Job(9, "k", math.inf, priority=11, caller="c"))), 0.0)
    assert urgent.waiting[0].id == 9
    assert (refused.id, late.waiting) == (9, state.waiting), "what is less urgent takes no place"


def test_nothing_is_learned_from_the_wait_of_a_job_that_was_overtaken():
    state = served(NodeState(workers=1, queue=9), 0, 0.0, 1.0)
    state, _ = of_callers(state, "aaaa", first=1)
    assert [job.forecast_s > 0 for job in state.waiting] == [False, True, True]
    state, _ = of_callers(state, "b", first=5)
    assert [(job.id, job.forecast_s > 0) for job in state.waiting] == [(2, False), (5, True), (3, False), (4, False)]

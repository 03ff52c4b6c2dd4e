"""Requests that leave it to the server that they would reach what their devices compute, and who the rest."""

import asyncio
import json
import math
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.patience import patient_transport
from tests.site.site_processes import WAIT_S, member_edge
from tests.site.test_dispatch import all_on_b

from coinfer.policies.onnx import PolicyError, load_policy
from coinfer.runtime.device.planning.observation import feasible_latency_s
from coinfer.runtime.edge.served_model import ECHO
from coinfer.runtime.protocol.messages import InferRequest, TransportError, WireError, from_array
from coinfer.runtime.protocol.task_options import Choice, ReachableServer, TaskOption, TaskOptions, options_json
from coinfer.site.agent.actors import GREEDY, Actor
from coinfer.site.agent.dispatch import Booking, Candidate, Task, checked, observe_options, sequential_greedy
from coinfer.site.agent.dispatcher import LATE_S, SiteDispatcher
from coinfer.site.agent.edge_agent import MAX_BOOKED_S, AgentSettings
from coinfer.site.agent.view import work_key
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation

ALL = TaskOption(("y",), 1.0, 0.0)
EARLY, LATE = TaskOption(("x",), 0.0, 8e5, (0.2, 0.1)), TaskOption(("z",), 0.1, 1e5, (0.1, 0.05))
LINKS = (ReachableServer("a:1", 8e6, 0.0), ReachableServer("b:1", 8e6, 0.0))
ASKED = TaskOptions((EARLY, LATE, ALL), LINKS)


def task(asked: TaskOptions = ASKED, deadline_s: float = math.inf, **more) -> Task:
    return Task("m", "", "", 0, deadline_s, options=asked, outputs=("y",), **more)


def server(name: str, backlog_s: float = 0.0, room: float = 9.0, works=None, **more) -> Candidate:
    return Candidate(name, {"m": ("f",)}, works or {}, backlog_s, room, 0.0, **more)


def chosen(tasks: Sequence[Task], servers: Sequence[Candidate]) -> list[tuple[int, int]]:
    decision = sequential_greedy(observe_options(tasks, servers))
    return list(zip(decision.option.tolist(), decision.server.tolist(), strict=True))


def test_cut_and_server_are_chosen_by_what_the_site_knows():
    assert chosen([task()], [server("a:1"), server("b:1")]) == [(1, 1)]  # 0.1 + 0.0125 + 0.05 s
    assert chosen([task()], [server("a:1"), server("b:1", backlog_s=0.3)]) == [(1, 0)]
    busy = [server("a:1", backlog_s=9.0), server("b:1", backlog_s=9.0)]
    assert chosen([task()], busy) == [(2, DEVICE)]
    fast = {work_key("m", ("x",), ("y",)): 0.001}  # what a server says of itself counts before what a device believes
    assert chosen([task()], [server("a:1", works=fast), server("b:1")]) == [(0, 0)]


def test_a_server_that_the_device_does_not_reach_or_that_is_full_or_lacks_it_is_left_out():
    assert chosen([task()], [server("a:1"), server("c:1")]) == [(1, 0)]
    assert chosen([task()], [server("a:1"), server("b:1", room=0)]) == [(1, 0)]
    assert chosen([task()], [server("a:1"), server("b:1")._replace(models={"n": ("f",)})]) == [(1, 0)]
    lacking = TaskOptions((EARLY, LATE._replace(server_s=(0.1, None)), ALL), LINKS)
    reported = server("b:1", works={work_key("m", ("z",), ("y",)): 0.01})
    assert chosen([task(lacking)], [server("a:1"), reported]) == [(0, 1)]


def test_those_that_wait_together_see_each_other():
    cuts = [place for _, place in chosen([task()] * 4, [server("a:1"), server("b:1")])]
    assert cuts.count(1) > cuts.count(0) > 0
    first = chosen([task(deadline_s=9.0), task(deadline_s=1.0)], [server("a:1", room=0), server("b:1", room=1)])
    assert first == [(2, DEVICE), (1, 1)]  # the urgent one gets the only place


sizes = st.floats(0.01, 1.0)
rows = st.builds(
    TaskOption,
    st.just(("x",)),
    sizes,
    st.sampled_from([0.0, 1e5, 1e6]),
    st.tuples(sizes, st.none() | sizes),
    st.just(()),
)
asked = st.lists(rows, min_size=1, max_size=3).map(lambda some: TaskOptions(tuple(some), LINKS))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(asked, st.sampled_from([1.0, 5.0, math.inf])), min_size=1, max_size=4), sizes, st.integers(1, 2)
)
def test_each_gets_what_the_planner_s_own_prediction_says_behind_those_before_it(several, backlog_s, room):
    """The reference places one task after the other by `feasible_latency_s`, the rule that devices plan by."""
    tasks = [task(options, deadline_s) for options, deadline_s in several]
    seen = observe_options(tasks, [server("a:1", backlog_s, room), server("b:1", room=room)])
    free_s, left = seen.server_backlog_s.copy(), seen.server_room.copy()
    decision = sequential_greedy(seen)
    for one in sorted(range(len(tasks)), key=lambda one: tasks[one].deadline_s):
        latency_s = feasible_latency_s(seen._replace(server_backlog_s=free_s, server_room=left))[one]
        option, place = int(decision.option[one]), int(decision.server[one])
        if math.isfinite(latency_s.min()):
            assert latency_s[option, place] == latency_s.min()
        else:
            assert (option, place) == (0, 0)
        if place != DEVICE and math.isfinite(latency_s[option, place]):
            free_s[place], left[place] = latency_s[option, place], left[place] - 1


def test_a_decision_that_cannot_be_carried_out_is_refused():
    short = task(TaskOptions((LATE,), LINKS))
    seen = observe_options([task(), short], [server("a:1"), server("c:1")])
    assert checked(OffloadDecision(np.array([2, 0]), np.array([1, 0])), seen).server.tolist() == [DEVICE, 0]
    for option, place in (([0, 0], [1, 0]), ([0, 1], [0, 0]), ([3, 0], [0, 0]), ([0, 0], [-1, 0]), ([0, -1], [0, 0])):
        with pytest.raises(ValueError, match=r"option|server"):
            checked(OffloadDecision(np.array(option), np.array(place)), seen)


# --- the dispatcher


class Decider:
    """A dispatcher with two equal servers; it remembers what it has given to them."""

    def __init__(self, actor=None, late_s: float = LATE_S):
        self.given: list[tuple[str, float, float]] = []
        self.here = 0
        self.dispatcher = SiteDispatcher(
            self.candidates,
            lambda: True,
            choose=lambda request: Actor(actor, "actor" if actor else GREEDY),
            late_s=late_s,
            on_choice=lambda booking: self.given.append((booking.address, booking.service_s, booking.arrives_s)),
        )

    def candidates(self) -> list[Candidate]:
        return [server("a:1", 10.0 * self.here), server("b:1", sum(one[1] for one in self.given if one[0] == "b:1"))]

    async def ask(self, count: int = 1, asked: TaskOptions = ASKED) -> list[Choice]:
        question = InferRequest("m", (), ("y",), options=asked)
        return await asyncio.gather(*(self.dispatcher.choose(question) for _ in range(count)))

    async def mixed(self) -> Choice:
        """A request that is here already, and asks while another does."""

        async def compute_here() -> None:
            inputs = (from_array("w", np.ones(10**6, np.float32)),)
            placed = await self.dispatcher.assign(InferRequest("m", inputs, dispatch=True), frozenset({"b:1"}))
            assert placed.node is None
            self.here += 1

        _, choice = await asyncio.gather(compute_here(), self.ask())
        return choice[0]


def test_devices_are_told_option_server_and_who_decided():
    decider = Decider()
    found = asyncio.run(decider.ask(3))
    assert {one.policy for one in found} == {GREEDY}
    assert {one.option for one in found} == {1}
    assert sorted(one.node for one in found) == ["a:1", "b:1", "b:1"]
    assert decider.given[0] == ("b:1", pytest.approx(0.05), pytest.approx(0.1125))
    assert decider.dispatcher.decided == 3
    assert asyncio.run(Decider().ask(1, TaskOptions((ALL,), LINKS))) == [Choice(0, "device", GREEDY)]


def test_what_waits_there_already_is_placed_first_and_seen():
    decider = Decider()
    assert asyncio.run(decider.mixed()).node == "b:1"
    assert decider.here == 1
    assert [one[0] for one in decider.given] == ["a:1", "b:1"]


def test_nothing_possible_is_an_error_of_the_protocol():
    with pytest.raises(WireError, match="nothing of what the device could do") as raised:
        asyncio.run(
            Decider().ask(1, TaskOptions((EARLY,), (LINKS[0]._replace(node="c:1"), LINKS[1]._replace(node="d:1"))))
        )
    assert raised.value.code == "UNAVAILABLE"


def made_for_one_option(observation: OffloadObservation[np.ndarray]) -> OffloadDecision[np.ndarray]:
    raise PolicyError("made for at most 1 on axis O, 3 at hand")


@pytest.mark.parametrize("actor", [made_for_one_option, lambda observation: None])
def test_where_the_actor_fails_greedy_decides(actor):
    decider = Decider(actor)
    assert {one.policy for one in asyncio.run(decider.ask(2))} == {GREEDY}
    assert decider.dispatcher.actor_failures == 1
    decider.dispatcher.close()


@pytest.mark.parametrize("actor", [all_on_b, load_policy("learned")])
def test_an_actor_decides_also_a_shipped_one(actor):
    decider = Decider(actor, late_s=120.0)  # on a busy machine it would be late
    found = asyncio.run(decider.ask(2))
    assert {one.policy for one in found} == {"actor"}
    assert actor is not all_on_b or {one.node for one in found} == {"b:1"}
    decider.dispatcher.close()


# --- a real server


def question(model: str, address: str) -> InferRequest:
    option = TaskOption(("x",), 0.0, 100.0, (0.01,), ("y",))
    return InferRequest(model, (), (), options=TaskOptions((option,), (ReachableServer(address, 1e9, 0.0),)))


def test_a_server_answers_over_both_protocols_without_computing(tmp_path: Path):
    transport = patient_transport()
    with member_edge(AgentSettings("edge-1", tmp_path)) as edge:
        asked = question(ECHO, edge.address)
        reply = transport.send(edge.address, asked).result(WAIT_S)
        assert reply.choice == Choice(0, edge.address, GREEDY)
        assert reply.load is not None
        assert asked.options is not None
        body = json.dumps({"inputs": [], "parameters": {"options": options_json(asked.options)}}).encode()
        with urllib.request.urlopen(f"http://{edge.http}/v2/models/{ECHO}/infer", body, WAIT_S) as response:
            said = json.load(response)["parameters"]
        assert json.loads(said["choice"]) == {"option": 0, "node": edge.address, "policy": GREEDY}
        assert edge.service.metrics.models[ECHO].received == 0
        wrong = {
            "NOT_FOUND": asked._replace(model="nobody"),
            "FAILED_PRECONDITION": asked._replace(fingerprint="0" * 64),
            "UNAVAILABLE": question(ECHO, "elsewhere:1"),
            "UNIMPLEMENTED": asked,
        }
        for code, request in wrong.items():
            edge.service.dispatcher = None if code == "UNIMPLEMENTED" else edge.agent.dispatcher
            with pytest.raises(TransportError, match=code):
                transport.send(edge.address, request).result(WAIT_S)
    transport.close()


def test_what_was_promised_counts_as_waiting_until_it_has_arrived_and_not_for_long(tmp_path: Path):
    with member_edge(AgentSettings("edge-1", tmp_path)) as edge:
        before = edge.agent.candidates()[0]
        promised = Booking(edge.address, "m", "w", 0.5, 0.0, math.inf)
        edge.agent._note(promised)  # here already, so that the queue knows of it
        assert edge.agent.candidates()[0].backlog_s == before.backlog_s
        edge.agent._note(promised._replace(arrives_s=1e9))
        after = edge.agent.candidates()[0]
        assert (after.backlog_s, after.room) == (before.backlog_s + 0.5, before.room - 1)
        edge.agent._note(promised._replace(service_s=1e9, arrives_s=1e9))
        assert edge.agent.candidates()[0].backlog_s == before.backlog_s + 0.5 + MAX_BOOKED_S
        assert max(at_s for at_s, *_ in edge.agent._sent) <= time.monotonic() + MAX_BOOKED_S

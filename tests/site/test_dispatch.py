"""Requests that leave it to the server that they reach which one computes."""

import asyncio
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.patience import patient_transport, wait_until
from tests.runtime.edge.edge_process import Sleeper, seconds
from tests.site.site_processes import WAIT_S, MemberEdge, controller_thread, member_edge

from coinfer.physics.latency import offload_latency_s
from coinfer.policies.onnx import load_policy
from coinfer.runtime.protocol.messages import InferReply, InferRequest, WireError, from_array
from coinfer.runtime.protocol.protobuf import parse_request, request_bytes
from coinfer.site.agent.actors import GREEDY, Actor
from coinfer.site.agent.dispatch import Candidate, Task, checked, observe, sequential_greedy
from coinfer.site.agent.dispatcher import LATE_S, SiteDispatcher
from coinfer.site.agent.edge_agent import AgentSettings
from coinfer.site.messages import Decision
from coinfer.site.store import read_experience
from coinfer.types import OffloadDecision

WORK = "w"
REQUEST = InferRequest("m", (from_array("x", np.ones(1000, np.float32)),), dispatch=True)


def task(deadline_s: float = math.inf, **more) -> Task:
    return Task("m", "", WORK, 4000, deadline_s, **more)


def server(name: str, service_s: float = 0.1, backlog_s: float = 0.0, room: float = 9.0, **more) -> Candidate:
    return Candidate(name, {"m": ("f",)}, {WORK: service_s}, backlog_s, room, 0.0, **more)


def chosen(tasks: Sequence[Task], servers: Sequence[Candidate]) -> list[int]:
    return sequential_greedy(observe(tasks, servers)).server.tolist()


def test_one_task_goes_where_it_ends_first():
    assert chosen([task()], [server("a", 0.3), server("b", 0.2, rate_bps=1e6)]) == [1]
    assert chosen([task()], [server("a", 0.3), server("b", 0.2, rate_bps=1e5)]) == [0]  # 0.32 s on the link
    assert chosen([task()], [server("a", 0.3), server("b", 0.2, round_trip_s=0.2)]) == [0]
    assert chosen([task()], [server("a", 0.3), server("b", 0.1, backlog_s=0.25)]) == [0]


def test_tasks_that_wait_together_see_each_other():
    assert sorted(chosen([task()] * 4, [server("a"), server("b")])) == [0, 0, 1, 1]
    assert chosen([task()] * 3, [server("a", 0.1), server("b", 0.25)]) == [0, 0, 1]
    assert chosen([task(9.0), task(1.0)], [server("a", 0.1), server("b", 0.19)]) == [1, 0]  # the urgent one first


def test_who_has_no_room_other_networks_or_failed_is_left_out():
    assert chosen([task()], [server("a"), server("b", 0.01, room=0)]) == [0]
    assert chosen([task()], [server("a"), server("b", 0.01)._replace(models={"n": ("f",)})]) == [0]
    same, other = "0123456789abcdef", "f" * 16  # what requests carry: the beginning of what servers report
    served = [one._replace(models={"m": ("9" * 64, same * 4)}) for one in (server("a"), server("b", 0.01))]
    assert chosen([task()._replace(fingerprint=same)], served) == [1]
    assert chosen([task()._replace(fingerprint=other)], served) == [0]
    assert chosen([task(excluded=frozenset({"b"}))], [server("a"), server("b", 0.01)]) == [0]
    assert chosen([task()] * 3, [server("a", room=1), server("b", room=1)]) == [0, 1, 0]  # it stays where it is
    elsewhere = [server("a")._replace(models={}), server("b", room=0), server("c", 0.2, room=0)]
    assert chosen([task()] * 2, elsewhere) == [1, 1]  # where it is nobody knows its network
    assert chosen([task()], elsewhere[:1]) == [0]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0, 2), st.floats(1e5, 1e9)), min_size=1, max_size=5))
def test_one_task_has_the_least_latency_that_physics_predicts(rows):
    servers = [server(str(i), *row[:2], rate_bps=row[2]) for i, row in enumerate(rows)]
    observation = observe([task()], servers)
    best = chosen([task()], servers)[0]
    assert offload_latency_s(observation)[0, 0, best] == pytest.approx(offload_latency_s(observation).min())


def test_a_decision_that_cannot_be_carried_out_is_refused():
    observation = observe([task(), task()], [server("a"), server("b")._replace(models={})])
    zeros = np.zeros(2, dtype=int)
    assert checked(OffloadDecision(zeros, zeros), observation).server.tolist() == [0, 0]
    for wrong in (np.array([0, 1]), np.array([0, 2]), np.array([0, -1]), np.array([0]), np.array([0.0, 0.0])):
        with pytest.raises(ValueError, match="server"):
            checked(OffloadDecision(zeros, wrong), observation)


# --- the dispatcher


class Decider:
    """A dispatcher with two equal servers, and what it decided."""

    def __init__(self, actor=None, idle: bool = True, late_s: float = LATE_S):
        self.kept: list[Decision] = []
        self.sizes: list[int] = []

        def candidates():
            return [server("a"), server("b")]

        self.dispatcher = SiteDispatcher(
            candidates,
            lambda: idle,
            choose=lambda request: Actor(actor, "actor" if actor else GREEDY),
            keep=lambda make: self.kept.append(make()),
            late_s=late_s,
        )

    async def ask(self, count: int) -> list[str | None]:
        placed = await asyncio.gather(*(self.dispatcher.assign(REQUEST, frozenset()) for _ in range(count)))
        for one in placed:
            one.done(True, 0.01, 0.02)
        return [one.node for one in placed]


def joint(kept: Sequence[Decision]) -> list[int]:
    """How many tasks each decision had."""
    return [decision.observation.tasks for decision in kept if decision.observation is not None]


def test_what_arrives_together_is_decided_together_and_nothing_waits_where_nothing_runs():
    decider = Decider()
    assert sorted(map(str, asyncio.run(decider.ask(4)))) == ["None", "None", "b", "b"]
    assert joint(decider.kept) == [4]
    assert [decision.task for decision in decider.kept] == [0, 1, 2, 3]
    assert {decision.policy for decision in decider.kept} == {GREEDY}


def test_a_busy_server_collects_for_a_moment():
    decider = Decider(idle=False)

    async def ask_one_after_the_other() -> None:
        first = asyncio.ensure_future(decider.ask(1))
        await asyncio.sleep(0)
        await asyncio.gather(first, decider.ask(1))

    asyncio.run(ask_one_after_the_other())
    assert joint(decider.kept) == [2]


def test_no_more_than_fifty_are_decided_together():
    decider = Decider(idle=False)
    asyncio.run(decider.ask(120))
    assert joint(decider.kept) == [50, 50, 20]


def all_on_b(observation) -> OffloadDecision[np.ndarray]:
    tasks = len(observation.deadline_s)
    return OffloadDecision(np.zeros(tasks, dtype=int), np.ones(tasks, dtype=int))


def raising(observation):
    raise RuntimeError("broken")


def late(observation):
    time.sleep(0.2)
    return all_on_b(observation)


def absent(observation) -> OffloadDecision[np.ndarray]:
    return OffloadDecision(np.zeros(1, dtype=int), np.array([7]))


@pytest.mark.parametrize("actor", [raising, late, absent, lambda observation: None])
def test_where_the_actor_fails_greedy_decides(actor, caplog):
    decider = Decider(actor)
    assert asyncio.run(decider.ask(2)).count(None) == 1
    assert {decision.policy for decision in decider.kept} == {GREEDY}
    assert decider.dispatcher.actor_failures == 1
    assert caplog.text.count("the actor actor failed and sequential greedy decides") == 1
    decider.dispatcher.close()


def test_no_request_hangs_when_deciding_fails(caplog):
    dispatcher = SiteDispatcher(lambda: [], lambda: True)
    placed = asyncio.run(dispatcher.assign(REQUEST, frozenset()))
    assert placed.node is None
    assert "deciding failed" in caplog.text


@pytest.mark.parametrize("actor", [all_on_b, load_policy("learned")])
def test_an_actor_decides_also_a_shipped_one(actor):
    decider = Decider(actor, late_s=WAIT_S)  # on a busy machine it would be late
    found = asyncio.run(decider.ask(2))
    assert decider.dispatcher.by_actor == 2
    assert actor is not all_on_b or found == ["b", "b"]
    decider.dispatcher.close()


# --- on real servers


def test_the_wish_travels_and_excludes_a_route():
    assert parse_request(request_bytes(REQUEST)).dispatch
    message = request_bytes(REQUEST)
    assert not parse_request(request_bytes(InferRequest("m", REQUEST.inputs))).dispatch
    assert len(message) < 4200
    from coinfer.types import Hop

    both = InferRequest("m", REQUEST.inputs, route=(Hop("b:1", ("y",), 32),), dispatch=True)
    with pytest.raises(WireError, match="route and dispatch: expected one of them"):
        parse_request(request_bytes(both))


def sleeping(service_s: float, count: int, dispatch: bool = True) -> list[InferRequest]:
    request = InferRequest("sleeper", (from_array("seconds", seconds(service_s)),), ("seconds",), dispatch=dispatch)
    return [request] * count


def sleeper_edge(tmp_path: Path, controller: str, name: str):
    return member_edge(AgentSettings(name, tmp_path / name, controller), models=[Sleeper().served()])


def nodes(replies: Sequence[InferReply], asked: MemberEdge) -> set[str]:
    """Who computed; a server that computes itself what it was asked for names nobody."""
    return {reply.executed[0].node if reply.executed else asked.address for reply in replies}


def computed(edge: MemberEdge) -> int:
    return edge.service.metrics.models["sleeper"].executions - edge.service.metrics.forwarded


def test_requests_spread_over_the_servers_and_survive_the_end_of_one(tmp_path: Path):
    transport = patient_transport()
    with (
        controller_thread(tmp_path / "store") as controller,
        sleeper_edge(tmp_path, controller.address, "edge-1") as first,
        sleeper_edge(tmp_path, controller.address, "edge-2") as second,
    ):
        third = MemberEdge(AgentSettings("edge-3", tmp_path / "edge-3", controller.address), [Sleeper().served()])
        wait_until(lambda: [one.room for one in first.agent.servers.values()] == [17] * 3, WAIT_S, "loads are known")
        pending = [transport.send(first.address, request) for request in sleeping(0.2, 12)]
        replies = [reply.result(WAIT_S) for reply in pending]
        assert nodes(replies, first) == {first.address, second.address, third.address}
        assert all(reply.forward_s >= 0 and reply.server_s >= 0.2 for reply in replies)
        # whoever chooses himself is not sent on, and a stock client asks as ever
        mixed = [transport.send(second.address, request) for request in sleeping(0.0, 3, dispatch=False)]
        assert nodes([reply.result(WAIT_S) for reply in mixed], second) == {second.address}
        known = first.agent.servers
        third.stop()
        first.agent.servers = known  # as if nobody had noticed yet
        pending = [transport.send(first.address, request) for request in sleeping(0.05, 12)]
        assert nodes([reply.result(WAIT_S) for reply in pending], first) <= {first.address, second.address}
        wait_until(lambda: first.agent._spool.held == 0, WAIT_S, "its decisions were delivered")
    transport.close()
    records = list(read_experience(tmp_path / "store"))
    assert len(records) >= 24
    assert {record["policy"] for record in records} == {GREEDY}

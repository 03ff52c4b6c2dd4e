"""Requests whose server is chosen where servers batch or load."""

import asyncio
import math
import time
from collections.abc import Sequence

import numpy as np
import pytest
from tests.patience import patient_transport, wait_until
from tests.site.site_processes import WAIT_S, controller_thread, member_edge
from tests.site.test_serving_reports import NETWORKS, SERVICE_S, Network, Now, key_of, loaded, served

from coinfer.policies.heuristics.demand import LOADS, Memory, Slot, decide_by_rule
from coinfer.policies.heuristics.server_times import Asked, ServerState, advance
from coinfer.policies.heuristics.serving import Choice
from coinfer.policies.heuristics.serving import Task as PlainTask
from coinfer.runtime.piece_memory import PieceMemory
from coinfer.runtime.protocol.messages import InferRequest, from_array
from coinfer.runtime.protocol.task_options import ReachableServer, TaskOption, TaskOptions
from coinfer.site.agent.actors import FALLBACK, GREEDY, SEQUENTIAL_ONLY, Actor
from coinfer.site.agent.dispatch import Candidate, SentTask, Task
from coinfer.site.agent.dispatcher import LATE_S, SiteDispatcher
from coinfer.site.agent.edge_agent import AgentSettings
from coinfer.site.agent.serving_plan import RULE, ServingPlanner, known_state
from coinfer.site.agent.serving_state import Catalogue, Told, server_state
from coinfer.site.messages import Decision
from coinfer.site.serving_messages import NetworkProfile, PieceName, ServingLoad, ServingProfile
from coinfer.site.store import read_experience
from coinfer.types import DEVICE

LOAD_S, MIB = 0.5, 1 << 20
PIECES = tuple(PieceName(work=key_of(name), network=n) for n, name in enumerate(NETWORKS))


def profile(fit: int | None = 2, sizes=(1,), ratios=(1.0,)) -> ServingProfile:
    """Of a server whose memory holds so many of three networks."""
    own = {"sizes": sizes, "ratios": ratios, "load_s": LOAD_S, "size_bytes": MIB}
    networks = tuple(NetworkProfile(name=name, **own) for name in NETWORKS)
    return ServingProfile(memory_bytes=None if fit is None else fit * MIB, networks=networks, pieces=PIECES)


def holding(warm: str, **more) -> ServingLoad:
    numbers = tuple(NETWORKS.index(name) for name in warm)
    return ServingLoad(warm=numbers, credits=(LOAD_S / MIB,) * len(numbers), **more)


def server(address: str, load: ServingLoad | None, about: ServingProfile | None = None, **more) -> Candidate:
    services = {key_of(name): SERVICE_S[name] for name in NETWORKS}
    told = None if load is None else Told(about or profile(), load)
    more = {"backlog_s": 0.0, "room": 9.0, "age_s": 0.0, "services": services, "works": services, "told": told} | more
    return Candidate(address, {name: ("f",) for name in NETWORKS}, **more)


def task(network: str, deadline_s: float = math.inf) -> Task:
    return Task(network, "", key_of(network), 100, deadline_s)


def chosen(tasks: Sequence[Task], servers: Sequence[Candidate]) -> list[int]:
    return ServingPlanner().plan(tasks, servers, 0.0).decision.server.tolist()


# --- the rule


def test_a_request_goes_where_its_network_is_or_soon_will_be():
    assert chosen([task("a")], [server("own", holding("b")), server("other", holding("a"))]) == [1]
    coming = holding("b", loading=0, loaded_s=0.1)
    assert chosen([task("a")], [server("own", holding("b")), server("other", coming)]) == [1]
    behind = holding("a", free_s=1.0)  # longer than a load
    assert chosen([task("a")], [server("own", holding("")), server("other", behind)]) == [0]


def test_requests_that_run_as_one_batch_go_to_one_server():
    about = profile(None, (1, 2, 4), (1.0, 1.02, 1.05))
    busy = ServingLoad(free_s=0.3)
    together = [server("own", busy, about), server("other", busy, about)]
    assert len(set(chosen([task("a")] * 4, together))) == 1
    apart = [one._replace(told=Told(profile(None), busy)) for one in together]
    assert sorted(chosen([task("a")] * 4, apart)) == [0, 0, 1, 1]


def test_what_was_sent_since_the_report_counts():
    servers = [server("own", holding("b")), server("other", holding("c"), age_s=0.35)]
    sent = SentTask("a", key_of("a"), 0.1, arrives_s=-0.3, deadline_s=math.inf)
    assert chosen([task("a")], [servers[0], servers[1]._replace(sent=(sent,))]) == [1]
    booked = sent._replace(arrives_s=0.01)  # on its way to the decider itself
    own = known_state(servers[0]._replace(sent=(booked,)), catalogue_of_all())
    assert own.asked == (Asked(0.01, 0.1, 0, 0, math.inf),)


def test_what_was_sent_is_played_by_the_servers_own_rule():
    catalogue = Catalogue()
    catalogue.add(profile())
    load = holding("b", waiting=(1, 1), free_s=0.02)
    sent = SentTask("a", key_of("a"), 0.1, arrives_s=-0.25, deadline_s=1.0)
    one = server("other", load, age_s=0.3, sent=(sent,))
    now = known_state(one, catalogue)
    reported = server_state(Told(profile(), load), catalogue, one.services, 0.0)
    assert now == advance(reported, [Asked(0.05, 0.1, 0, 0, 1.3)], 0.3)
    assert now.loading == (0, pytest.approx(0.25))
    assert now.free_s < 0
    assert [request.network for request in now.asked] == [0]


def test_a_server_that_told_nothing_is_known_by_its_backlog():
    silent = server("other", None, backlog_s=0.2)
    assert chosen([task("a")], [server("own", holding("b")), silent]) == [1]  # waiting is shorter than loading
    assert chosen([task("b")], [server("own", holding("b")), silent]) == [0]


def test_who_has_no_room_or_other_networks_is_left_out():
    own, other = server("own", holding("b")), server("other", holding("a"))
    assert chosen([task("a")], [own, other._replace(room=0.0)]) == [0]
    assert chosen([task("a")], [own, other._replace(models={})]) == [0]
    assert chosen([task("a")], [own._replace(models={}), other._replace(room=0.0)]) == [
        1
    ]  # as sequential greedy has it


def test_a_network_that_is_asked_for_often_is_not_evicted():
    planner = ServingPlanner()
    one_each = profile(1)
    servers = [server("own", holding("a"), one_each), server("other", holding("b"), one_each)]
    for often in ("a", "b"):
        planner = ServingPlanner()
        for number in range(40):
            planner.adopt(planner.plan([task(often)], servers, 0.1 * number))
        planner.adopt(planner.plan([task("b" if often == "a" else "a")], servers, 3.95))
        found = planner.plan([task("c")], servers, 4.0).decision.server.tolist()
        assert found == [1 if often == "a" else 0], often


def test_only_what_is_carried_out_is_remembered():
    servers = [server("own", holding("a")), server("other", holding("b"))]
    planner, other = ServingPlanner(), ServingPlanner()
    for number in range(3):
        planner.plan([task("a")], servers, 0.1 * number)
    assert planner.plan([task("a")], servers, 1.0).remembered == other.plan([task("a")], servers, 1.0).remembered


def test_memory_fades_with_the_time_between_windows():
    servers = [server("own", holding("a")), server("other", holding("b"))]
    planner = ServingPlanner()
    first = planner.plan([task("a")], servers, 1.0)
    planner.adopt(first)
    assert first.remembered.saved[0] == pytest.approx(LOAD_S / LOADS.memory_s, rel=1e-2)
    later = planner.plan([task("b")], servers, 1.0 + LOADS.memory_s).remembered
    assert later.saved[0] == pytest.approx(first.remembered.saved[0] / math.e, rel=1e-2)
    assert later.placed["own"][0] == pytest.approx(1 / math.e, rel=1e-2)


def asking(network: str, device_s: float) -> Task:
    """A device that could do all itself, or send a picture or what is behind a cut."""
    servers = (ReachableServer("own", 1e6, 0.01), ReachableServer("other", 1e6, 0.01))
    options = (
        TaskOption(("x",), 0.0, 8e4, (0.1, 0.1), ("y",)),
        TaskOption(("cut",), 0.05, 4e4, (0.08, 0.08), ("y",)),
        TaskOption(("y",), device_s, 0.0),
    )
    return Task(network, "", "", 0, math.inf, options=TaskOptions(options, servers), outputs=("y",))


def test_what_devices_could_do_is_decided_as_the_simulators_rule_decides_it():
    servers = [server("own", holding("b", free_s=0.05)), server("other", holding("a"), age_s=0.0)]
    tasks = [asking("a", 2.0), asking("c", 0.3), asking("b", 2.0), asking("a", 0.05)]
    planned = ServingPlanner().plan(tasks, servers, 0.0)

    def choices(network: int, services_s: Sequence[float], device_s: float) -> tuple[Choice, ...]:
        cut = 3 + network  # numbered as they come: the whole networks first here
        sent = [Choice(0, n, 0.09, services_s[0], network, network) for n in (0, 1)]
        part = [Choice(1, n, 0.1, services_s[1], cut, network) for n in (0, 1)]
        return (*sent, *part, Choice(2, DEVICE, device_s, 0.0, 0, network))

    times = [(SERVICE_S["a"], 0.08), (SERVICE_S["c"], 0.08), (SERVICE_S["b"], 0.08), (SERVICE_S["a"], 0.08)]
    rows = zip((0, 2, 1, 0), times, (2.0, 0.3, 2.0, 0.05), strict=True)
    plain = [PlainTask(choices(*row), math.inf) for row in rows]
    order = [3, 0, 1, 2]  # who is ready first
    states = [server_state(one.told, catalogue_of_all(), one.services, 0.0) for one in servers if one.told]
    slot = Slot(states, [plain[k] for k in order], Memory([0.0] * 3, [[0.0] * 3, [0.0] * 3], []), LOADS, 0.002)
    expected = dict(zip(order, decide_by_rule(slot), strict=True))
    assert planned.decision.option.tolist() == [expected[k].choice.option for k in range(4)]
    assert planned.decision.server.tolist() == [expected[k].choice.server for k in range(4)]
    assert DEVICE in planned.decision.server
    assert {0, 1} & set(planned.decision.server.tolist())


def catalogue_of_all() -> Catalogue:
    catalogue = Catalogue()
    catalogue.add(profile())
    return catalogue


# --- the dispatcher


class Decider:
    """A dispatcher of two servers of which the second one holds the network, and what it decided."""

    def __init__(self, actor: Actor = FALLBACK, servers: Sequence[Candidate] = (), late_s: float = WAIT_S):
        self.kept: list[Decision] = []
        self.servers = servers or [server("own", holding("b")), server("other", holding("a"))]
        self.dispatcher = SiteDispatcher(
            lambda: self.servers,
            lambda: True,
            choose=lambda request: actor,
            keep=lambda make: self.kept.append(make()),
            late_s=late_s,
        )

    def ask(self, count: int = 1) -> list[str | None]:
        request = InferRequest("a", (from_array("x", np.zeros(25, np.float32)),), ("y",), dispatch=True)

        async def asked():
            return await asyncio.gather(*(self.dispatcher.assign(request, frozenset()) for _ in range(count)))

        placed = asyncio.run(asked())
        for one in placed:
            one.done(True, 0.01, 0.02)
        self.dispatcher.close()
        return [one.node for one in placed]


def test_the_rule_decides_where_servers_batch_or_load_and_is_named_in_the_log():
    decider = Decider()
    assert decider.ask(2) == ["other", "other"]
    assert [one.policy for one in decider.kept] == [RULE, RULE]
    assert decider.kept[0].observation is not None
    assert decider.dispatcher.actor_failures == 0


@pytest.mark.parametrize("told", [None, Told(profile(None), ServingLoad())])
def test_sequential_greedy_decides_where_they_do_neither_or_tell_nothing(told: Told | None):
    decider = Decider(servers=[server("own", None)._replace(told=told), server("other", None)])
    assert decider.ask() == [None]
    assert [one.policy for one in decider.kept] == [GREEDY]


def test_sequential_greedy_decides_where_it_is_asked_for_or_the_rule_is_late_or_wrong(monkeypatch, caplog):
    asked_for = Decider(SEQUENTIAL_ONLY)
    asked_for.ask()
    assert asked_for.kept[0].policy == GREEDY

    def late(*_):
        time.sleep(0.2)

    def wrong(*_):
        raise IndexError("no such network")

    for plan, late_s, words in ((late, LATE_S, "it was late"), (wrong, WAIT_S, "IndexError: no such network")):
        monkeypatch.setattr(ServingPlanner, "plan", plan)
        decider = Decider(late_s=late_s)
        assert len(decider.ask()) == 1
        assert [one.policy for one in decider.kept] == [GREEDY]
        assert f"the actor {RULE} failed and sequential greedy decides: {words}" in caplog.text


def test_states_of_unlike_servers_are_equally_long():
    other = ServingProfile(memory_bytes=9 * MIB, networks=(NetworkProfile(name="z", load_s=0.1, size_bytes=MIB),))
    servers = [server("own", holding("b")), server("other", ServingLoad(), other), server("third", None)]
    planner = ServingPlanner()
    planner.plan([task("q")], servers, 0.0)
    catalogue = planner._catalogue
    states: list[ServerState] = [known_state(one, catalogue) for one in servers]
    assert len(catalogue.networks) == 5
    assert {len(one.times) for one in states} == {len(one.load_s) for one in states} == {5}


# --- on real servers


def test_requests_go_to_the_server_whose_memory_has_their_network(tmp_path):
    transport = patient_transport()
    networks: dict[str, dict[str, Network]] = {}

    def member(name: str, warm: str):
        now = Now()
        memory: PieceMemory = PieceMemory(2000, 9, now)  # holds one
        networks[name] = {one: Network(one, memory) for one in NETWORKS}
        for one in networks[name].values():
            one.computes.set()
            one.opens.set()
        for one in sorted(NETWORKS, key=lambda one: one == warm):
            loaded(memory, networks[name][one], now, 5.0)
        models = [served(one, network) for one, network in networks[name].items()]
        settings = AgentSettings(name, tmp_path / name, controller.address, late_s=WAIT_S)
        return member_edge(settings, models=models, memory=memory)

    def ask(network: str) -> str:
        request = InferRequest(network, (from_array("x", np.zeros(1, np.float32)),), ("y",), dispatch=True)
        reply = transport.send(first.address, request).result(WAIT_S)
        return reply.executed[0].node if reply.executed else first.address

    with (
        controller_thread(tmp_path / "store") as controller,
        member("edge-1", "a") as first,
        member("edge-2", "b") as second,
    ):
        wait_until(
            lambda: (one := first.agent.servers.get("edge-2")) and one.serving and one.serving.warm and one.profile,
            WAIT_S,
            "it is known what is in memory",
        )
        for _ in range(3):
            assert ask("b") == second.address
            assert ask("a") == first.address
        wait_until(lambda: first.agent._spool.held == 0, WAIT_S, "its decisions were delivered")
    transport.close()
    assert {record["policy"] for record in read_experience(tmp_path / "store")} == {RULE}

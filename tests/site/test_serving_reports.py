"""What servers that batch or load tell of it, and what others make of that."""

import asyncio
import math
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.patience import wait_until
from tests.runtime.edge.edge_process import AlwaysThere, edge_thread, seconds, unencoded
from tests.site.site_processes import WAIT_S, controller_thread, member_edge

from coinfer.physics.batching import BatchTimes
from coinfer.physics.loading import Loaded
from coinfer.policies.heuristics.server_times import Asked, ServerState, advance
from coinfer.runtime.batch_profile import BatchProfile
from coinfer.runtime.edge import admission
from coinfer.runtime.edge.node_state import Job, NodeState, Start
from coinfer.runtime.edge.served_model import ServedModel, Signature
from coinfer.runtime.edge.service import EdgeService
from coinfer.runtime.edge.service_times import ServiceTimes
from coinfer.runtime.piece_memory import Owner, PagedWeights, PieceKey, PieceMemory
from coinfer.runtime.protocol.messages import InferRequest, from_array
from coinfer.site.agent.edge_agent import AgentSettings
from coinfer.site.agent.serving_report import ServingReporter
from coinfer.site.agent.serving_state import Catalogue, Told, does_serve, server_state
from coinfer.site.agent.view import ServerView, after_view, work_key
from coinfer.site.controller.registry import hear, join
from coinfer.site.controller.views import Views
from coinfer.site.load import is_news
from coinfer.site.messages import Hello, MessageError, Report, View, WorkReport, from_controller, from_node, to_bytes
from coinfer.site.serving_messages import ServingLoad

NETWORKS = ("a", "b", "c")
WHOLE = ("x",), ("y",)
TIMES = {"a": BatchTimes((1, 2, 4), (1.0, 1.2, 1.6)), "b": BatchTimes((1, 2), (1.0, 1.5)), "c": BatchTimes()}
SERVICE_S = {"a": 0.1, "b": 0.04, "c": 0.3}
WEIGHTS = np.zeros(250, np.float32)


class Network(AlwaysThere):
    """Computes nothing; has its pieces in a memory, and its times are known."""

    def __init__(self, name: str, memory: PieceMemory | None = None):
        self.owner = Owner(PagedWeights({"w": WEIGHTS}, lambda: {"w": WEIGHTS}))
        self.key = PieceKey(self.owner, *WHOLE)
        self.computes, self.opens = threading.Event(), threading.Event()
        self._times, self._memory = TIMES[name], memory

    def batches(self, inputs, outputs=()):
        return BatchProfile(sizes=self._times.sizes, ratios=self._times.ratios)

    def hold(self, inputs, outputs=()):
        return self._memory is None or self._memory.hold(self.key)

    def release(self, inputs, outputs=()):
        if self._memory is not None:
            self._memory.release(self.key)

    def prepare(self, inputs, outputs=(), hold=False):
        assert self._memory is not None
        self._memory.get(self.key, 1000, self._open, hold=hold)

    def _open(self):
        assert self.opens.wait(WAIT_S)

    def run(self, inputs, outputs=(), abort=None):
        assert self.computes.wait(WAIT_S)
        return {"y": inputs["x"]}, 0.0


def served(name: str, network: Network) -> ServedModel:
    x, y = (Signature(one, "FP32", (1,)) for one in ("x", "y"))
    return ServedModel(name, "", (x,), (y,), "test", network)


def kind(name: str):
    return (name, *WHOLE, False, ())


def key_of(name: str) -> str:
    return work_key(name, *WHOLE)


def services() -> dict[str, float]:
    return {key_of(name): SERVICE_S[name] for name in NETWORKS}


def catalogue_of(reporter: ServingReporter) -> Catalogue:
    catalogue = Catalogue()
    assert reporter.profile is not None
    catalogue.add(reporter.profile)
    return catalogue


@pytest.fixture
def service():
    made = EdgeService([served(name, Network(name)) for name in NETWORKS])
    yield made
    made.close()


# --- the queue

JOBS = st.lists(st.tuples(st.sampled_from(NETWORKS), st.sampled_from([0.05, 0.2, 0.5, 2.0, math.inf])), 
                min_size=1, max_size=8)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JOBS)
def test_a_reported_queue_begins_the_batch_that_the_server_begins(service: EdgeService, jobs):
    times = {kind(name): ServiceTimes((SERVICE_S[name],), 0.0) for name in NETWORKS}
    waiting = tuple(
        Job(number, kind(name), 5.0 + deadline_s, times=TIMES[name]) for number, (name, deadline_s) in enumerate(jobs)
    )
    service.scheduler.state = state = NodeState(1, 16, waiting=waiting, service=times)
    reporter = ServingReporter(service)
    told = reporter.load(5.0)
    started = [one for one in admission.plan(state, 5.0) if isinstance(one, Start)]
    refused = {one.id for one in admission.plan(state, 5.0) if not isinstance(one, Start)}
    assert told is not None
    assert len(told.waiting) == len(jobs)
    if refused:  # those that would be late alone are not the rule's matter
        return
    catalogue = catalogue_of(reporter)
    known = server_state(Told(reporter.profile, told), catalogue, services(), 0.0)  # type: ignore[arg-type]
    later = advance(known, [], 1e-6)
    by_name = [catalogue.networks.of(name) for name, _ in jobs]
    assert later.running == (by_name[started[0].id],)
    assert [one.network for one in later.asked] == [
        network for number, network in enumerate(by_name) if number not in started[0].ids
    ]
    took_s = TIMES[jobs[started[0].id][0]].ratio(len(started[0].ids)) * SERVICE_S[jobs[started[0].id][0]]
    assert later.free_s == pytest.approx(took_s, abs=1e-5)


def test_work_of_which_others_know_no_piece_makes_the_server_busy(service: EdgeService):
    warming = ("a", *WHOLE, True, ())
    times = {warming: ServiceTimes((0.7,), 0.0), kind("b"): ServiceTimes((0.04,), 0.0)}
    waiting = (Job(0, warming, math.inf), Job(1, kind("b"), math.inf))
    service.scheduler.state = NodeState(1, 16, waiting=waiting, service=times)
    reporter = ServingReporter(service)
    told = reporter.load(0.0)
    assert told is not None
    assert (told.free_s, len(told.waiting), told.deadlines_s) == (0.7, 1, ())


def test_a_server_of_several_workers_or_without_batches_and_limits_tells_nothing(service: EdgeService):
    service.scheduler.state = NodeState(2, 16)
    assert ServingReporter(service).load(0.0) is None
    plain = EdgeService([served("c", Network("c"))])
    reporter = ServingReporter(plain)
    assert (reporter.load(0.0), reporter.profile) == (None, None)
    assert not does_serve(reporter.profile)
    plain.close()


# --- memory


class Now:
    """A clock that is set."""

    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


def loaded(memory: PieceMemory, network: Network, now: Now, took_s: float) -> None:
    def open_() -> None:
        now.s += took_s

    memory.get(network.key, 1000, open_)


def test_what_is_in_memory_is_told_with_what_loading_and_evicting_it_would_take():
    now = Now()
    memory: PieceMemory = PieceMemory(4000, 9, now)
    networks = {name: Network(name, memory) for name in NETWORKS}
    service = EdgeService([served(name, one) for name, one in networks.items()], memory=memory)
    for name, took_s in (("a", 0.2), ("b", 0.6), ("c", 0.3)):  # the third one evicts the first
        loaded(memory, networks[name], now, took_s)
    reporter = ServingReporter(service)
    told = reporter.load(0.0)
    assert told is not None
    assert reporter.profile is not None
    known = server_state(Told(reporter.profile, told), catalogue_of(reporter), {}, 0.0)
    assert (list(known.load_s), list(known.size_bytes), known.memory_bytes) == ([0.2, 0.6, 0.3], [2000.0] * 3, 4000.0)
    assert does_serve(reporter.profile)
    # as the server does it: above the credit of what was evicted, per byte of weights and piece
    expected = {1: Loaded(2000.0, 0.6, (0.6 - 0.2) / 2000), 2: Loaded(2000.0, 0.3, 0.3 / 2000)}
    assert known.warm.keys() == expected.keys()
    for x, one in expected.items():
        assert known.warm[x] == pytest.approx(one, rel=1e-3)
    # what comes next: the network of least credit goes, in both
    later = advance(known, [Asked(1e-6, 0.1, 0, 0, math.inf)], 0.3)
    loaded(memory, networks["a"], now, 0.2)
    left = {name for name in NETWORKS if memory.has(networks[name].key)}
    assert left == {NETWORKS[x] for x in later.warm} == {"a", "b"}
    service.close()


def test_loads_that_go_on_and_wait_are_told_with_their_requests():
    memory: PieceMemory = PieceMemory(1e6, 9)
    networks = {name: Network(name, memory) for name in NETWORKS}
    for one in networks.values():
        one.computes.set()

    def make_service() -> EdgeService:
        return EdgeService([served(name, one) for name, one in networks.items()], memory=memory)

    def request(name: str) -> InferRequest:
        return InferRequest(name, (from_array("x", seconds(0.0)),), ("y",))

    with edge_thread(make_service) as edge:
        reporter = ServingReporter(edge.service)

        async def ask() -> list[asyncio.Future]:
            return [asyncio.ensure_future(edge.service.infer(request(name), unencoded)) for name in ("b", "a", "a")]

        async def told() -> ServingLoad | None:
            return reporter.load(edge.service._clock.now_s())

        def begun() -> bool:
            found = edge.run(told())
            return found is not None and found.cold == 3

        pending = edge.run(ask())
        wait_until(begun, WAIT_S, "all wait for loads")
        load = edge.run(told())
        assert load is not None
        assert reporter.profile is not None
        names = [one.name for one in reporter.profile.networks]
        assert names[load.loading or 0] == "b"
        assert [names[one] for one in load.wanted] == ["a"]
        assert [names[reporter.profile.pieces[one].network] for one in load.waiting] == ["b", "a", "a"]
        known = server_state(Told(reporter.profile, load), catalogue_of(reporter), services(), 0.0)
        assert [one.joined_s for one in known.asked] == [math.inf] * 3
        for one in networks.values():
            one.opens.set()

        async def done() -> int:
            return len(await asyncio.gather(*pending))

        assert edge.run(done()) == 3
        load = edge.run(told())
        assert load is not None
        assert (load.waiting, load.loading, load.wanted) == ((), None, ())
        assert {names[one] for one in load.warm} == {"a", "b"}


# --- through the controller


def through_controller(hello: Hello, reports: list[Report]) -> ServerView:
    """What another node knows after a server joined and reported, over all messages."""
    parsed = from_node(to_bytes(hello))
    assert isinstance(parsed, Hello)
    nodes = join({}, parsed, 1, 0.0).nodes
    views, seen, sent_s = Views(), {}, -1.0
    for number, report in enumerate(reports, 1):
        heard = from_node(to_bytes(report))
        assert isinstance(heard, Report)
        nodes[hello.name] = hear(nodes[hello.name], float(number), heard)
        views.observe(nodes, float(number))
        view = from_controller(views.view(nodes, sent_s))
        assert isinstance(view, View)
        seen, sent_s = after_view(seen, view, float(number)), float(number)
    return seen[hello.name]


def test_others_make_of_a_report_the_state_that_the_server_makes_itself():
    now = Now()
    memory: PieceMemory = PieceMemory(4000, 9, now)
    networks = {name: Network(name, memory) for name in NETWORKS}
    service = EdgeService([served(name, one) for name, one in networks.items()], memory=memory)
    reporter = ServingReporter(service)
    reporter.load(0.0)
    hello = Hello(name="edge-1", role="edge", epoch=1, address="a:1", serving=reporter.profile)
    before = reporter.profile
    for name, took_s in (("a", 0.2), ("b", 0.6)):
        loaded(memory, networks[name], now, took_s)
    times = {kind(name): ServiceTimes((SERVICE_S[name],), 0.0) for name in NETWORKS}
    jobs = tuple(Job(n, kind(name), 7.0 + n, times=TIMES[name]) for n, name in enumerate("aab"))
    state = NodeState(1, 16, waiting=jobs[1:], arriving=jobs[:1], service=times)
    service.scheduler.state = admission.apply(state, Start(0, 2.0))
    works = [WorkReport(work=work, service_s=took_s, load_s=0.5) for work, took_s in services().items()]
    load = reporter.load(2.03)
    assert reporter.profile is not None
    assert reporter.profile != before
    first = Report(serving=load, profile=reporter.profile, works=works)
    view = through_controller(hello, [first, first.model_copy(update={"profile": None})])
    assert view.profile == reporter.profile
    assert view.serving is not None
    assert view.services == services()
    assert view.works == {work: took_s + 0.5 for work, took_s in services().items()}
    own, others = (
        server_state(Told(reporter.profile, one), catalogue_of(reporter), services(), 0.0)
        for one in (load, view.serving)
        if one is not None
    )
    assert own == others
    a, b = 0, 1
    assert own == ServerState(
        times=[one.each_size() for one in TIMES.values()],
        load_s=[0.2, 0.6, pytest.approx(0.4)],  # of the last one nothing is known yet
        size_bytes=[2000.0, 2000.0, 2000.0],
        memory_bytes=4000.0,
        free_s=0.07,
        running=(a,),
        asked=(Asked(0.0, 0.1, a, a, 5.97, 0.0), Asked(0.0, 0.04, b, b, 6.97, 0.0)),
        warm={a: Loaded(2000.0, 0.2, 0.2 / 2000), b: Loaded(2000.0, 0.6, 0.6 / 2000)},
    )
    service.close()


def test_a_view_says_a_profile_once_and_loads_are_news():
    service = EdgeService([served(name, Network(name)) for name in NETWORKS])
    reporter = ServingReporter(service)
    load = reporter.load(0.0)
    nodes = join({}, Hello(name="edge-1", role="edge", epoch=1, serving=reporter.profile), 1, 0.0).nodes
    views = Views()
    sizes = []
    for number in (1.0, 2.5):
        nodes["edge-1"] = hear(nodes["edge-1"], number, Report(serving=load))
        views.observe(nodes, number)
        sizes.append(views.view(nodes, number - 1.5))
    assert b"ratios" in sizes[0]
    assert b"ratios" not in sizes[1]
    assert load is not None
    other = load.model_copy(update={"loading": 1, "loaded_s": 0.5})
    assert is_news(Report(serving=load), Report(serving=other))
    assert not is_news(Report(serving=other), Report(serving=other.model_copy(update={"loaded_s": 0.1})))
    service.close()


@pytest.mark.parametrize(
    "wrong",
    ['{"warm":[1]}', '{"waiting":[1],"deadlines_s":[1,2]}', '{"cold":1}', '{"waiting":[256]}'],
)
def test_a_load_that_contradicts_itself_is_refused(wrong: str):
    with pytest.raises(MessageError, match="serving"):
        from_node(b'{"kind":"report","serving":%s}' % wrong.encode())


def test_a_load_of_another_profile_does_no_harm():
    service = EdgeService([served(name, Network(name)) for name in NETWORKS])
    reporter = ServingReporter(service)
    reporter.load(0.0)
    wrong = ServingLoad(running=(9,), waiting=(200,), warm=(77,), credits=(1.0,), loading=30, wanted=(40,))
    assert reporter.profile is not None
    known = server_state(Told(reporter.profile, wrong), catalogue_of(reporter), {}, 0.0)
    assert (known.running, known.asked, known.warm, known.loading, known.wanted) == ((), (), {}, None, ())
    service.close()


def test_servers_hear_how_others_batch_and_load(tmp_path):
    memory: PieceMemory = PieceMemory(4000, 9)
    networks = {name: Network(name, memory) for name in NETWORKS}
    models = [served(name, one) for name, one in networks.items()]

    def member(controller: str, name: str, **more):
        return member_edge(AgentSettings(name, tmp_path / name, controller), **more)

    with (
        controller_thread(tmp_path / "store") as controller,
        member(controller.address, "edge-1", models=models, memory=memory),
        member(controller.address, "edge-2") as second,
    ):

        def heard() -> ServerView | None:
            return second.agent.servers.get("edge-1")

        wait_until(lambda: (one := heard()) and one.serving and one.profile, WAIT_S, "it is known")
        first = heard()
        assert first is not None
        assert first.profile is not None
        assert [one.name for one in first.profile.networks] == list(NETWORKS)
        assert first.profile.networks[0].sizes == (1, 2, 4)
        assert first.serving is not None
        assert first.serving.warm == ()
        loaded(memory, networks["b"], Now(), 0.0)
        wait_until(lambda: (one := heard()) and one.serving and one.serving.warm == (1,), WAIT_S, "a load is heard of")

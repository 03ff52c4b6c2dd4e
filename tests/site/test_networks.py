"""Networks that come and go on the edge servers of a site, and what belongs to them."""

import itertools
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.patience import one_round_right, patient_transport, wait_until
from tests.runtime.edge.edge_process import Sleeper, seconds
from tests.site.site_processes import WAIT_S, MemberEdge, controller_thread, member_edge
from tests.site.test_devices import GRAPH, PICTURE, answered_by, device, on_server

from coinfer.runtime.edge.served_model import ServedModel, serve_graph
from coinfer.runtime.executor import Executor
from coinfer.runtime.protocol.messages import InferRequest, TransportError, from_array
from coinfer.site.agent.edge_agent import AgentSettings
from coinfer.site.agent.view import after_view
from coinfer.site.controller.registry import Node, hear, join
from coinfer.site.controller.views import Views
from coinfer.site.load import is_news
from coinfer.site.messages import Hello, Report, ServedName, View, from_controller, to_bytes

MARK, PART = "a" * 64, "b" * 64
FIRST, SECOND = ServedName(name="first", fingerprint=MARK), ServedName(name="second", fingerprint=PART)
MODEL = "sleeper"


# --- the controller and its views


def site(*models: ServedName) -> dict[str, Node]:
    nodes: dict[str, Node] = {}
    for name in ("edge-1", "edge-2"):
        hello = Hello(name=name, role="edge", epoch=1, address=f"{name}:1", models=models)
        nodes = join(nodes, hello, len(nodes), 0.0).nodes
    return nodes


def test_what_a_server_serves_now_is_in_the_next_view_and_only_there():
    nodes, views, seen = site(FIRST), Views(), {}
    sent_s = -1.0

    def next_view(now_s: float) -> View:
        nonlocal seen, sent_s
        views.observe(nodes, now_s)
        view = from_controller(views.view(nodes, sent_s) or to_bytes(View()))
        assert isinstance(view, View)
        seen, sent_s = after_view(seen, view, now_s), now_s
        return view

    next_view(0.1)
    assert seen["edge-2"].models == {"first": (MARK,)}
    report = Report(models=(FIRST, SECOND))
    assert is_news(Report(), report)
    nodes["edge-2"] = hear(nodes["edge-2"], 0.2, report)
    view = next_view(0.25)
    assert [info.name for info in view.servers] == ["edge-2"]
    assert view.names is None
    assert seen["edge-2"].models == {"first": (MARK,), "second": (PART,)}
    nodes["edge-2"] = hear(nodes["edge-2"], 0.3, Report(room=4))  # what is as it was is not said again
    assert next_view(0.35).servers == ()
    nodes["edge-2"] = hear(nodes["edge-2"], 0.4, Report(models=()))
    next_view(0.45)
    assert (seen["edge-1"].models, seen["edge-2"].models) == ({"first": (MARK,)}, {})


def test_a_node_that_joins_again_serves_what_its_hello_says():
    nodes = {"edge-1": hear(site(FIRST)["edge-1"], 0.1, Report(models=(SECOND,)))}
    assert nodes["edge-1"].models == (SECOND,)
    hello = Hello(name="edge-1", role="edge", epoch=2, models=(FIRST,))
    assert join(nodes, hello, 7, 0.2).nodes["edge-1"].models == (FIRST,)
    assert b"models" not in to_bytes(Report(room=3))


# --- servers


class SleepingEdge:
    """An edge server that serves by sleeping, perhaps from the start."""

    def __init__(self, tmp_path: Path, controller: str, name: str, part: str = "", *, serves: bool = True):
        self._sleeper = Sleeper()
        model = self._sleeper.served(MODEL)._replace(fingerprint=MARK, bottleneck=part)
        settings = AgentSettings(name, tmp_path / name, controller)
        self.member = MemberEdge(settings, [model] if serves else [], {MODEL: lambda: model})
        self.address, self.agent, self.service = self.member.address, self.member.agent, self.member.service

    def __enter__(self) -> "SleepingEdge":
        return self

    def __exit__(self, *_: object) -> None:
        self.member.stop()

    def load(self) -> None:
        self.member.load(MODEL)

    def unload(self) -> None:
        self.member.unload(MODEL)

    @property
    def computed(self) -> int:
        return len(self._sleeper.finished)


def received(edge: MemberEdge | SleepingEdge) -> int:
    """Requests that have reached a server, for whatever network."""
    return sum(stats.received for stats in edge.service.metrics.models.values())


class Asking:
    """Clients that ask one server without a pause and leave it to it who computes."""

    def __init__(self, address: str, clients: int = 6):
        self.errors: list[str] = []
        self._address = address
        self._transport = patient_transport()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        self._asking = [self._pool.submit(self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        data = (from_array("seconds", seconds(0.05)),)
        request = InferRequest(MODEL, data, ("seconds",), fingerprint=MARK[:16], dispatch=True)
        while not self._stop.is_set():
            try:
                self._transport.send(self._address, request).result(WAIT_S)
            except TransportError as error:
                self.errors.append(str(error))

    def until_computed_by(self, edge: SleepingEdge) -> None:
        before = edge.computed
        wait_until(lambda: edge.computed > before + 5, WAIT_S, "it computes")

    def __enter__(self) -> "Asking":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        self._transport.close()
        for one in self._asking:
            one.result()


def networks_come_and_go(folder: Path) -> list[str]:
    """Returns the errors: none, unless the machine stands still so long that nodes count as lost."""
    with (
        controller_thread(folder / "store") as controller,
        SleepingEdge(folder, controller.address, "edge-1") as first,
        SleepingEdge(folder, controller.address, "edge-2", serves=False) as second,
    ):
        with Asking(first.address) as asking:
            asking.until_computed_by(first)
            second.load()
            asking.until_computed_by(second)
            first.unload()
            asking.until_computed_by(second)  # sent on by a server that has it no longer
            first.load()
            asking.until_computed_by(first)
            second.unload()
            wait_until(lambda: knows(first, "edge-2", {}), WAIT_S, "others know")
        before = received(second)
        with Asking(first.address) as later:
            later.until_computed_by(first)
            assert received(second) == before
            second.load()
            later.until_computed_by(second)
            second.service.repository.before_removal = None  # type: ignore[union-attr]
            second.unload()  # without a word before
            later.until_computed_by(first)
    return asking.errors + later.errors


def knows(edge: SleepingEdge, name: str, models: dict[str, tuple[str, ...]]) -> bool:
    return name in edge.agent.servers and edge.agent.servers[name].models == models


def test_servers_ask_whoever_serves_a_network_now_and_no_request_fails(tmp_path: Path):
    rounds = itertools.count()
    one_round_right(lambda: networks_come_and_go(tmp_path / str(next(rounds))))


def test_what_nobody_serves_is_refused_at_once(tmp_path: Path):
    transport = patient_transport()
    with (
        controller_thread(tmp_path / "store") as controller,
        SleepingEdge(tmp_path, controller.address, "edge-1", serves=False) as first,
    ):
        request = InferRequest(MODEL, (from_array("seconds", seconds(0.0)),), dispatch=True)
        with pytest.raises(TransportError, match="no model 'sleeper' here"):
            transport.send(first.address, request).result(WAIT_S)
        assert first.agent.dispatcher is not None
        assert first.agent.dispatcher.decided == 0
    transport.close()


def test_requests_for_a_bottleneck_spread_over_the_servers_that_have_it(tmp_path: Path):
    transport = patient_transport()
    with (
        controller_thread(tmp_path / "store") as controller,
        SleepingEdge(tmp_path, controller.address, "edge-1", PART) as first,
        SleepingEdge(tmp_path, controller.address, "edge-2", PART) as second,
        SleepingEdge(tmp_path, controller.address, "edge-3") as third,
    ):
        wait_until(lambda: len(first.agent.servers) == 3, WAIT_S, "all are known")
        wait_until(lambda: all(one.room == 17 for one in first.agent.servers.values()), WAIT_S, "loads are known")
        assert knows(first, "edge-2", {MODEL: (PART, MARK)})
        assert controller.service.state()["nodes"][0]["models"] == [MODEL]  # type: ignore[index]
        data = (from_array("seconds", seconds(0.2)),)
        request = InferRequest(MODEL, data, ("seconds",), fingerprint=PART[:16], dispatch=True)
        for pending in [transport.send(first.address, request) for _ in range(6)]:
            pending.result(WAIT_S)
        assert second.computed > 0
        assert third.computed == 0
    transport.close()


# --- devices


def test_a_device_asks_whoever_serves_its_network_now(tmp_path: Path, monkeypatch):
    def network() -> ServedModel:
        return serve_graph(GRAPH, Executor(GRAPH))

    def member(name: str, models: list[ServedModel]):
        settings = AgentSettings(name, tmp_path / name, controller.address)
        return member_edge(settings, models=models, loadable={GRAPH.name: network})

    with (
        controller_thread(tmp_path / "store") as controller,
        member("edge-1", [network()]) as first,
        member("edge-2", []) as second,
    ):
        wait_until(lambda: controller.there() == {"edge-1", "edge-2"}, WAIT_S, "both are there")
        with device(controller.address, monkeypatch, tmp_path) as camera:
            wait_until(lambda: camera.servers == (first.address,), WAIT_S, "one is known")
            wait_until(lambda: answered_by(camera, 0), WAIT_S, "it answers")
            second.load(GRAPH.name)
            wait_until(lambda: camera.servers == (first.address, second.address), WAIT_S, "the other one is known")
            wait_until(lambda: answered_by(camera, 1), WAIT_S, "it answers")
            first.unload(GRAPH.name)
            pool = camera._parts.client.pool
            wait_until(lambda: pool.estimates()[0].down_until_s == math.inf, WAIT_S, "the first one is asked no more")
            for thread in pool._preparing:
                thread.join()
            before = received(first)
            for _ in range(3):
                camera.infer(PICTURE, policy=on_server(0))
            assert received(first) == before
            first.load(GRAPH.name)
            wait_until(lambda: answered_by(camera, 0), WAIT_S, "it is asked again")

"""Nodes and controller find each other, in any order, and again after either was away."""

import itertools
import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.patience import wait_until
from tests.site.site_files import BAD_AT_ONCE, channel, make_site
from tests.site.site_processes import (
    WAIT_S,
    ControllerProcess,
    ControllerThread,
    controller_thread,
    free_port,
    member_edge,
)

from coinfer.site.agent.edge_agent import AgentSettings
from coinfer.site.agent.joining import NodeOptions, find_place, join_edge
from coinfer.site.agent.spool import Spool
from coinfer.site.agent.stream import Controller, ControllerStream, StreamThread
from coinfer.site.certificates.access import GRPC
from coinfer.site.certificates.identity import Identity
from coinfer.site.certificates.roles import ROLES, SecurityError
from coinfer.site.messages import MESSAGE_BYTES, Hello, Refused, Report, ServedName, View, from_controller, to_bytes

LINK = b'{"to":"a","rate_bps":1,"round_trip_s":1}'
JOIN = "/coinfer.Site/Join"


def plain(tmp_path: Path, controller: str, name: str = "edge-1") -> AgentSettings:
    return AgentSettings(name, tmp_path / name, controller)


def test_servers_know_of_each_other_and_who_is_gone(tmp_path: Path):
    with controller_thread(tmp_path / "store") as controller, ExitStack() as first, ExitStack() as second:
        one = first.enter_context(member_edge(plain(tmp_path, controller.address)))
        two = second.enter_context(member_edge(plain(tmp_path, controller.address, "edge-2")))
        wait_until(lambda: {*one.agent.servers} == {*two.agent.servers} == {"edge-1", "edge-2"}, WAIT_S, "both")
        wait_until(lambda: one.agent.servers["edge-2"].room == 17, WAIT_S, "its load has come")
        assert one.agent.servers["edge-2"].info.address == two.address
        assert [model.name for model in one.agent.servers["edge-2"].info.models] == ["echo"]
        wait_until(lambda: one.agent._links.reports(), WAIT_S, "a link was measured")
        second.close()
        wait_until(lambda: {*one.agent.servers} == {"edge-1"}, WAIT_S, "one is gone")


def test_a_server_that_comes_back_elsewhere_is_found_there(tmp_path: Path):
    with controller_thread(tmp_path / "store") as controller:
        with member_edge(plain(tmp_path, controller.address)) as edge:
            wait_until(lambda: controller.there() == {"edge-1"}, WAIT_S, "it is there")
            first = edge.address
        with member_edge(plain(tmp_path, controller.address)) as edge:
            wait_until(
                lambda: controller.there() and controller.service.nodes["edge-1"].hello.address == edge.address,
                WAIT_S,
                "it is there again",
            )
            assert edge.address != first


def test_of_two_with_one_name_the_older_is_refused_with_one_line_on_both_sides(tmp_path: Path, caplog):
    caplog.set_level(logging.INFO, "coinfer.site")
    with controller_thread(tmp_path / "store") as controller:
        with member_edge(plain(tmp_path / "a", controller.address)) as older:
            wait_until(lambda: controller.there() == {"edge-1"}, WAIT_S, "the first is there")
            with member_edge(plain(tmp_path / "b", controller.address)) as newer:
                wait_until(lambda: not older.agent._stream.joined.is_set(), WAIT_S, "it is refused")  # type: ignore[union-attr]
                wait_until(lambda: newer.agent.servers, WAIT_S, "the other is there")
                assert controller.service.nodes["edge-1"].hello.address == newer.address
        lines = [record.getMessage() for record in caplog.records]
        assert len([line for line in lines if line.startswith("refused edge edge-1 of epoch")]) == 1
        told = [line for line in lines if line.startswith("refused by the controller")]
        assert len(told) == 1
        assert f"a newer node called edge-1 at {newer.address} joined; stop one of them" in told[0]


@pytest.mark.parametrize("order", list(itertools.permutations(["controller", "edge-1", "edge-2"])))
def test_any_order_of_start_converges(order: tuple[str, ...], tmp_path: Path):
    port, running = free_port(), dict[str, Any]()
    try:
        for what in order:
            if what == "controller":
                running[what] = ControllerThread(tmp_path / "store", port=port)
            else:
                running[what] = member_edge(plain(tmp_path, f"127.0.0.1:{port}", what))
                running[what + " itself"] = running[what].__enter__()
        edges = [running[name + " itself"] for name in ("edge-1", "edge-2")]
        wait_until(lambda: all({*edge.agent.servers} == {"edge-1", "edge-2"} for edge in edges), WAIT_S, "all know all")
    finally:
        for name in ("edge-1", "edge-2"):
            if name in running:
                running[name].__exit__(None, None, None)
        if "controller" in running:
            running["controller"].stop()


def test_a_controller_that_is_killed_and_comes_back_knows_its_nodes_again(tmp_path: Path, caplog):
    caplog.set_level(logging.INFO, "coinfer.site")
    controller = ControllerProcess(tmp_path)
    controller.start()
    try:
        with member_edge(plain(tmp_path, controller.address)) as edge:
            wait_until(lambda: edge.agent.servers, WAIT_S, "it has joined")
            controller.kill()
            wait_until(lambda: not edge.agent._stream.joined.is_set(), WAIT_S, "it has noticed")  # type: ignore[union-attr]
            assert {*edge.agent.servers} == {"edge-1"}  # it goes on with what it knows
            controller.start()
            wait_until(lambda: edge.agent._stream.joined.is_set(), WAIT_S, "it has joined again")  # type: ignore[union-attr]
        said = [record.getMessage().partition(" at ")[0] for record in caplog.records]
        assert said.count("the controller") == 1
        assert "--site" not in caplog.text, "that it speaks plain text is known by then"
    finally:
        controller.kill()


# --- who may call the controller


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory):
    return make_site(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def secure(site, tmp_path_factory: pytest.TempPathFactory):
    with controller_thread(tmp_path_factory.mktemp("store") / "store", Identity(site.home / "controller")) as running:
        yield running


def said(connection: grpc.Channel, *messages: bytes) -> list:
    """What the controller says to a node, to the end of the stream."""
    return [from_controller(data) for data in connection.stream_stream(JOIN)(iter(messages), timeout=60)]


def code(connection: grpc.Channel, method: str) -> str:
    try:
        if method == "/coinfer.Site/State":
            connection.unary_unary(method)(b"", timeout=60)
        else:
            list(connection.stream_stream(method)(iter([b"{}"]), timeout=60))
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


@pytest.mark.parametrize("role", ROLES)
def test_a_role_reaches_what_the_table_says(site, secure, role):
    assert set(secure.service.methods) <= set(GRPC)
    with channel(site, role, secure.address, "controller") as connection:
        for method in secure.service.methods:
            assert (code(connection, method) == "PERMISSION_DENIED") == (role not in GRPC[method]), method


@pytest.mark.parametrize("who", [*BAD_AT_ONCE, "revoked"])
def test_who_is_no_member_reaches_no_method_of_the_controller(site, secure, who):
    refused = "UNAUTHENTICATED" if who == "revoked" else "UNAVAILABLE"
    with channel(site, who, secure.address, "controller") as connection:
        assert {code(connection, method) for method in secure.service.methods} == {refused}


def test_a_certificate_lets_nobody_join_under_another_name(site, secure):
    with channel(site, "edge", secure.address, "controller") as connection:
        (answer,) = said(connection, to_bytes(Hello(name="edge-9", role="edge", epoch=1)))
        assert answer == Refused(reason="the certificate is of edge edge, not of edge edge-9")
    assert secure.there() == set()


def test_with_certificates_servers_join_as_without(site, secure, tmp_path: Path):
    settings = AgentSettings("edge", tmp_path / "edge", secure.address, Identity(site.home / "edge"))
    with member_edge(settings) as edge:
        wait_until(lambda: edge.agent.servers, WAIT_S, "it has joined")


@pytest.mark.parametrize(
    ("first", "second", "wrong"),
    [
        (b"nonsense", b"", "Invalid JSON"),
        (to_bytes(Report()), b"", "expected a hello first"),
        (b'{"kind":"hello","name":"../etc","role":"edge","epoch":1}', b"", "hello.name"),
        (None, b'{"kind":"report","backlog_s":NaN}', "report.backlog_s: Input should be a finite number"),
        (None, b'{"kind":"report","backlog_s":1e999}', "report.backlog_s: Input should be a finite number"),
        (None, b'{"kind":"report","links":[' + b",".join([LINK] * 257) + b"]}", "at most 256 items"),
        (None, b'{"kind":"report","mood":"good"}', "report.mood: Extra inputs are not permitted"),
        (
            None,
            b'{"kind":"report","batch":{"epoch":1,"records":[]}}',
            "batch.records: List should have at least 1",
        ),
    ],
)
def test_what_a_node_may_not_say_ends_its_stream_with_one_line(first, second, wrong, tmp_path: Path):
    with controller_thread(tmp_path / "store") as controller, grpc.insecure_channel(controller.address) as connection:
        messages = [first or to_bytes(Hello(name="edge-1", role="edge", epoch=1)), second]
        last = said(connection, *filter(None, messages))[-1]
        assert isinstance(last, Refused)
        assert wrong in last.reason
        assert "\n" not in last.reason


def test_a_message_that_is_too_large_ends_the_stream(tmp_path: Path):
    with controller_thread(tmp_path / "store") as controller, grpc.insecure_channel(controller.address) as connection:
        hello = to_bytes(Hello(name="edge-1", role="edge", epoch=1))
        large = b'{"kind":"report","version":"' + b"x" * 3 * MESSAGE_BYTES + b'"}'
        with pytest.raises(grpc.RpcError, match="larger than max"):
            said(connection, hello, large)


class Teller:
    """A node that tells who it is, and keeps the names of the servers that each view tells of, if it tells of any."""

    def __init__(self, hello: Hello, controller: str, folder: Path):
        self.hello = lambda: hello
        self.report = Report
        self.views: list[set[str]] = []
        self.on_policy = lambda message: None
        stream = ControllerStream(self, Controller(controller, None), Spool(folder / hello.name, 1))
        self.thread = StreamThread(stream)
        self.thread.start()

    def on_view(self, view: View) -> None:
        if view.servers:
            self.views.append({one.name for one in view.servers})


def test_a_site_may_serve_more_networks_than_a_node_may_tell_of(tmp_path: Path):
    many = tuple(ServedName(name=f"{n:0200d}", fingerprint="f" * 32) for n in range(800))
    names = {f"edge-{n}" for n in range(7)}
    assert len(names) * len(to_bytes(Hello(name="edge", role="edge", epoch=1, models=many))) > 1.2 * MESSAGE_BYTES
    with controller_thread(tmp_path / "store") as controller, ExitStack() as ends:
        for n, name in enumerate(sorted(names)):
            hello = Hello(name=name, role="edge", epoch=1, address=f"192.0.2.1:{8001 + n}", models=many)
            ends.callback(Teller(hello, controller.address, tmp_path).thread.close, 0.0)
        wait_until(lambda: controller.there() == names, WAIT_S, "all are there")
        device = Teller(Hello(name="camera", role="device", epoch=1), controller.address, tmp_path)
        ends.callback(device.thread.close, 0.0)
        wait_until(lambda: names in device.views, WAIT_S, "one view has told of all")


def test_plain_text_is_for_this_machine_or_for_who_asks_for_it(tmp_path: Path):
    options = NodeOptions(controller="192.0.2.1:8600", name="edge-1", state=tmp_path)
    with pytest.raises(SecurityError, match="would be reached in plain text; give --site, or allow it with --insecure"):
        find_place(options, "edge", "1")
    assert find_place(options._replace(insecure=True), "edge", "1").controller is not None
    with pytest.raises(SecurityError, match="say it with --advertise"):
        join_edge(options._replace(insecure=True), "0.0.0.0", 8001)

"""Servers found by a name or an announcement: all addresses, also later ones, and one line where there are none."""

import logging
import socket
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.patience import wait_until
from tests.runtime.device.test_device import GRAPH, PICTURES, TABLE, good_node
from typer.testing import CliRunner

from coinfer.addresses import AddressError, parse_servers
from coinfer.cli.main import app
from coinfer.errors import UserError
from coinfer.runtime import zeroconf_discovery
from coinfer.runtime.clock import WallClock
from coinfer.runtime.device import discovery
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.discovery import Discovery, DnsName, fixed
from coinfer.runtime.device.server_pool import ServerPool
from coinfer.runtime.transport.base import InMemoryTransport
from coinfer.types import OffloadDecision


class Names:
    """A DNS that says what it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *hosts: str):
        self.hosts = list(hosts)
        monkeypatch.setattr(socket, "getaddrinfo", self.resolve)

    def resolve(self, host: str, port: int, **more: object) -> list[tuple]:
        if not self.hosts:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        families = [socket.AF_INET6 if ":" in known else socket.AF_INET for known in self.hosts]
        return [(family, 1, 6, "", (known, port)) for family, known in zip(families, self.hosts, strict=True)]


def pool_of(found: Discovery) -> ServerPool:
    return ServerPool(found.servers(), InMemoryTransport({}), WallClock(), 1e6, lambda index: None)


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        (["10.0.0.2", "10.0.0.1", "10.0.0.1"], {"10.0.0.1:8001", "10.0.0.2:8001"}),
        (["fd00::1", "10.0.0.1"], {"10.0.0.1:8001"}),
        (["fd00::1", "fd00::2"], {"[fd00::1]:8001", "[fd00::2]:8001"}),
    ],
)
def test_every_address_of_a_name_is_a_server_once(hosts, expected, monkeypatch: pytest.MonkeyPatch):
    Names(monkeypatch, *hosts)
    assert DnsName("edge.example:8001").addresses() == expected


def test_servers_come_and_are_replaced_and_the_list_grows_no_further(monkeypatch: pytest.MonkeyPatch):
    names = Names(monkeypatch, "10.0.0.1", "10.0.0.2")
    found = Discovery({"dns:edge:1": DnsName("edge:1")})
    pool = pool_of(found)
    for hosts, expected in (
        (["10.0.0.2", "10.0.0.3"], ["10.0.0.3", "10.0.0.2"]),
        (["10.0.0.2"], ["10.0.0.3", "10.0.0.2"]),
        (["10.0.0.2", "10.0.0.3"], ["10.0.0.3", "10.0.0.2"]),
        (["10.0.0.2", "10.0.0.3", "10.0.0.4"], ["10.0.0.3", "10.0.0.2", "10.0.0.4"]),
        (["10.0.0.7", "10.0.0.8", "10.0.0.9"], ["10.0.0.7", "10.0.0.8", "10.0.0.9"]),
    ):
        names.hosts = hosts
        found.update(pool)
        assert list(pool.addresses) == [f"{host}:1" for host in expected]


def test_a_name_that_does_not_resolve_is_said_once_and_takes_nothing_away(monkeypatch: pytest.MonkeyPatch, caplog):
    names = Names(monkeypatch)
    with caplog.at_level(logging.WARNING):
        found = Discovery({"dns:edge:1": DnsName("edge:1")})
        pool = pool_of(found)
        found.update(pool)
    assert [record.getMessage() for record in caplog.records] == [
        "dns:edge:1 names no servers now (Name or service not known); going on with those that are known"
    ]
    names.hosts = ["10.0.0.1"]
    found.update(pool)
    names.hosts = []
    found.update(pool)
    assert list(pool.addresses) == ["10.0.0.1:1"]


def test_a_device_uses_servers_that_its_name_gets_while_it_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(discovery, "INTERVAL_S", 0.05)
    monkeypatch.setattr(Discovery.__init__, "__defaults__", (None, 0.05))
    names = Names(monkeypatch, "10.0.0.1")
    nodes = {f"10.0.0.{i}:1": good_node() for i in (1, 2)} | {"a:1": good_node()}
    with Device(
        GRAPH, servers=["a:1", "dns:edge:1"], profile=TABLE, transport=InMemoryTransport(nodes), hedge=False
    ) as device:
        assert device.servers == ("a:1", "10.0.0.1:1")
        names.hosts = ["10.0.0.1", "10.0.0.2"]
        wait_until(lambda: len(device.servers) == 3, 60, "the new one is known")

        def answered() -> bool:
            decision = OffloadDecision(np.array([0]), np.array([2]))
            return device.infer(PICTURES[0], policy=lambda _: decision).executed_on == "10.0.0.2:1"

        wait_until(answered, 60, "it answers")


class FakeZeroconf(types.ModuleType):
    """The part of the package that is used, within one process."""

    def __init__(self) -> None:
        super().__init__("zeroconf")
        self.infos: dict[str, types.SimpleNamespace] = {}
        self.listeners: list = []

    def ServiceInfo(self, kind: str, name: str, port: int, parsed_addresses: list[str], server: str):
        return types.SimpleNamespace(kind=kind, name=name, port=port, parsed_addresses=lambda: parsed_addresses)

    def Zeroconf(self):
        return types.SimpleNamespace(
            get_service_info=lambda kind, name: self.infos.get(name),
            register_service=lambda info: self._tell("add_service", info, {info.name: info}),
            unregister_service=lambda info: self._tell("remove_service", info, {}),
            close=lambda: None,
        )

    def ServiceBrowser(self, zeroconf, kind: str, listener) -> None:
        self.listeners.append(listener)
        for info in self.infos.values():
            listener.add_service(zeroconf, kind, info.name)

    def _tell(self, what: str, info, infos) -> None:
        self.infos = infos
        for listener in self.listeners:
            getattr(listener, what)(self.Zeroconf(), info.kind, info.name)


def appear_and_vanish(until: Callable[[Callable[[], bool]], object]) -> None:
    first = zeroconf_discovery.Announcement("127.0.0.1:8001")
    browser = zeroconf_discovery.open_browser()
    until(lambda: "127.0.0.1:8001" in browser.addresses())
    first.close()
    until(lambda: "127.0.0.1:8001" not in browser.addresses())
    browser.close()


def test_announced_servers_are_found_until_they_say_goodbye(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "zeroconf", FakeZeroconf())

    def at_once(holds: Callable[[], bool]) -> None:
        assert holds()

    appear_and_vanish(at_once)


def test_announced_servers_are_found_by_the_real_package():
    pytest.importorskip("zeroconf")
    appear_and_vanish(lambda holds: wait_until(holds, 60, "it is so"))


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    with pytest.raises(UserError, match=r"need an extra: pip install '\.\[zeroconf\]' in"):
        Device(GRAPH, servers=["zeroconf"], profile=TABLE)
    done = CliRunner().invoke(
        app, ["edge", "--echo", "resnet32", "--announce", "--grpc-port", "0", "--http-port", "-1"]
    )
    assert done.exit_code != 0
    assert ".[zeroconf]" in f"{done.output}{done.exception}"


def test_texts_of_servers():
    assert parse_servers("a:1, dns:b.c:2,zeroconf") == ("a:1", "dns:b.c:2", "zeroconf")
    assert fixed(("a:1", "dns:b.c:2", "zeroconf")) == ("a:1",)
    for text, said in (
        ("dns:b", "it has no port"),
        ("zeroconf:x", "it has no port"),
        ("dns:a:1,dns:a:1", "is given twice"),
    ):
        with pytest.raises(AddressError, match=said):
            parse_servers(text)

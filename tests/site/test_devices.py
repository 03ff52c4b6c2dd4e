"""Devices that find their servers by a controller, and what the controller keeps of their requests."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tests.patience import wait_until
from tests.site.site_processes import WAIT_S, ControllerProcess, controller_thread, member_edge
from tests.site.test_policies import policy_files, start_updater
from tests.tables import analytic_table

from coinfer.graph.zoo import networks
from coinfer.runtime.device.device import Device
from coinfer.runtime.edge.served_model import serve_graph
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import load_images
from coinfer.site.agent.edge_agent import AgentSettings
from coinfer.site.agent.observed import complete
from coinfer.site.store import newest_experience, read_experience
from coinfer.types import OffloadDecision, OffloadObservation

GRAPH = networks.build("alexnet-cifar")
PICTURE = load_images()[0][1]
TABLE = analytic_table(GRAPH)


def served(tmp_path: Path, controller: str, name: str):
    return member_edge(AgentSettings(name, tmp_path / name, controller), models=[serve_graph(GRAPH, Executor(GRAPH))])


def device(controller: str, monkeypatch, tmp_path: Path) -> Device:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Device(GRAPH, controller=controller, name="camera", profile=TABLE, slowdown=50.0)


def on_server(index: int) -> Callable[[OffloadObservation], OffloadDecision]:
    """Sends to one server whatever can be sent."""
    return lambda o: OffloadDecision(np.array([int(np.argmax(o.option_upload_bits[0] > 0))]), np.array([index]))


def answered_by(device: Device, index: int) -> bool:
    return device.infer(PICTURE, policy=on_server(index)).executed_on == device.servers[index]


def test_a_device_finds_servers_also_later_and_elsewhere(tmp_path: Path, monkeypatch):
    with controller_thread(tmp_path / "store") as controller:
        with served(tmp_path, controller.address, "edge-1") as first:
            wait_until(lambda: controller.there() == {"edge-1"}, WAIT_S, "a server is there")
            with device(controller.address, monkeypatch, tmp_path) as camera:
                assert camera.servers == (first.address,)
                wait_until(lambda: answered_by(camera, 0), WAIT_S, "it answers")
                with served(tmp_path, controller.address, "edge-2") as second:
                    wait_until(lambda: len(camera.servers) == 2, WAIT_S, "the second one is known")
                    assert camera.servers[1] == second.address
                    wait_until(lambda: answered_by(camera, 1), WAIT_S, "it answers, too")
                    assert camera.observe().server_room.shape == (2,)
                with served(tmp_path, controller.address, "edge-2") as second:
                    wait_until(lambda: camera.servers[1] == second.address, WAIT_S, "it is found elsewhere")
                    wait_until(lambda: answered_by(camera, 1), WAIT_S, "it answers there")
        wait_until(lambda: not controller.there(), WAIT_S, "all are gone")


def test_reports_of_servers_are_what_a_device_observes(tmp_path: Path, monkeypatch):
    with controller_thread(tmp_path / "store") as controller, served(tmp_path, controller.address, "edge-1"):
        wait_until(lambda: controller.there() == {"edge-1"}, WAIT_S, "a server is there")
        with device(controller.address, monkeypatch, tmp_path) as camera:
            assert camera._membership is not None
            pool = camera._parts.client.pool
            before = pool.estimates()[0].reported_s
            wait_until(lambda: pool.estimates()[0].reported_s > before, WAIT_S, "its load is told")
            assert camera.observe().observation_age_s[0] >= 0


def test_a_device_may_leave_the_choice_to_the_server_that_it_reaches(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with (
        controller_thread(tmp_path / "store") as controller,
        served(tmp_path, controller.address, "edge-1") as edge,
    ):
        wait_until(lambda: controller.there() == {"edge-1"}, WAIT_S, "a server is there")
        for dispatch in (False, True):
            settings = {"controller": controller.address, "name": "camera", "dispatch": dispatch}
            with Device(GRAPH, profile=TABLE, slowdown=50.0, **settings) as camera:
                wait_until(lambda camera=camera: answered_by(camera, 0), WAIT_S, "it answers")
            assert bool(edge.agent.dispatcher.decided) == dispatch  # type: ignore[union-attr]

        def requests(by_server: bool) -> set[object]:
            told = read_experience(tmp_path / "store")
            return {one.get("request") for one in told if ("group" in one) == by_server} - {None}

        wait_until(lambda: requests(True) and requests(True) == requests(False), WAIT_S, "both tell of the same")


def test_a_device_that_decides_itself_uses_the_policy_of_its_site(tmp_path: Path, monkeypatch):
    with controller_thread(tmp_path / "store") as controller, served(tmp_path, controller.address, "edge-1"):
        updater = start_updater(controller)
        updater.push(*policy_files(), "a test")
        wait_until(lambda: controller.there() == {"edge-1"}, WAIT_S, "a server is there")
        with device(controller.address, monkeypatch, tmp_path) as camera:
            agent = camera._membership
            assert agent is not None

            def decided_by(name: str, **settings) -> None:
                def is_told() -> bool:
                    camera.infer(PICTURE, **settings)
                    return any(one["policy"] == name for one in newest_experience(tmp_path / "store", 1))

                wait_until(is_told, WAIT_S, f"{name} decides")

            decided_by("planner")
            updater.pin(1, "a test")
            decided_by("version 1")
            assert controller.service.nodes["camera"].report.policy_problem == ""
            decided_by("planner", policy=on_server(0))  # a request's own policy goes first
            updater.roll_back("a test")
            wait_until(lambda: agent.policy() is None, WAIT_S, "it is taken back")
            decided_by("planner")


class Asking:
    """A thread that asks a device again and again; a request that fails ends the test."""

    def __init__(self, device: Device):
        self._device = device
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self.count = 0

    def __enter__(self) -> "Asking":
        self._asking = self._pool.submit(self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()

    def _ask(self) -> None:
        while not self._stop.is_set():
            assert self._device.infer(PICTURE).output.shape == (1, 10)
            self.count += 1

    def wait_for_more(self) -> None:
        seen = self.count
        wait_until(lambda: self.count > seen + 30 or self._asking.done(), WAIT_S, "requests are answered")

    def stop(self) -> int:
        self._stop.set()
        self._asking.result(WAIT_S)
        return self.count


def test_nothing_is_lost_and_all_is_kept_once_when_the_controller_is_killed(tmp_path: Path, monkeypatch):
    controller = ControllerProcess(tmp_path)
    controller.start()
    try:
        with (
            served(tmp_path, controller.address, "edge-1"),
            device(controller.address, monkeypatch, tmp_path) as camera,
            Asking(camera) as asking,
        ):
            for _ in range(2):
                asking.wait_for_more()
                controller.kill()
                asking.wait_for_more()
                controller.start()
            count = asking.stop()
            spool = camera._membership._spool  # type: ignore[union-attr]
            wait_until(lambda: spool.held == 0, WAIT_S, "all was delivered")
        records = list(read_experience(tmp_path / "experience.sqlite"))
        assert [record["seq"] for record in records] == list(range(count))
        first = records[0]
        assert (first["node"], first["model"], first["policy"]) == ("camera", GRAPH.name, "planner")
        seen = complete(first["observation"])  # type: ignore[arg-type]
        assert [*seen["fields"]] == [*OffloadObservation._fields]  # type: ignore[call-overload]
        assert first["reward"] == -first["latency_s"]  # type: ignore[operator]
    finally:
        controller.kill()

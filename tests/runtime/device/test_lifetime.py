"""From opening to closing; settings that nobody changes; what is said of servers and policies that fail."""

import dataclasses
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.device.test_device import GRAPH, PICTURES, TABLE, Switched, device, exact, fails, good_node

from coinfer import Device, DeviceConfig, Objective
from coinfer.profile.measure import this_machine
from coinfer.runtime.device.config import DeviceError
from coinfer.runtime.executor import Executor, Runner
from coinfer.runtime.piece_memory import PieceMemory
from coinfer.runtime.protocol.messages import InferReply, InferRequest, WireError
from coinfer.runtime.transport.base import InMemoryTransport
from coinfer.types import OffloadDecision, OffloadObservation, Policy, Route


def sends_to(server: int) -> Policy:
    return lambda _: OffloadDecision(np.array([0]), np.array([server]))


def test_a_device_answers_between_opening_and_closing_only():
    alone = device({})
    uses = [
        lambda: alone.infer(PICTURES[0]),
        alone.observe,
        alone.plan,
        lambda: alone.infer_by_route(PICTURES[0], Route((), 0, 1.0)),
    ]
    for use in uses:
        with pytest.raises(DeviceError, match="not open; use it as `with Device"):
            use()
    alone.open()
    alone.open()
    np.testing.assert_allclose(alone.infer(PICTURES[0]).output, exact(PICTURES[0]), rtol=1e-5)
    alone.close()
    alone.close()
    for use in (*uses, alone.open):
        with pytest.raises(DeviceError, match="closed; make a new one"):
            use()


def test_devices_of_a_network_may_share_what_computes_it():
    memory = PieceMemory[Runner](1e9, 64)
    shared = Executor(GRAPH, slowdown=2.0, memory=memory)
    settings = {"profile": TABLE, "executor": shared}
    with Device(GRAPH, slowdown=2.0, **settings) as one:
        opened = memory.report().loads
        with Device(GRAPH, slowdown=2.0, **settings) as other:
            for each in (one, other):
                np.testing.assert_allclose(each.infer(PICTURES[0]).output, exact(PICTURES[0]), rtol=1e-5)
        assert memory.report().loads == opened > 0
    for graph, other in ((GRAPH, {"slowdown": 3.0}), (GRAPH, {"threads": 2}), (dataclasses.replace(GRAPH), {})):
        with pytest.raises(DeviceError, match="another network, threads, slow-down or provider"):
            Device(graph, **{"slowdown": 2.0, **settings, **other})


def test_a_device_that_cannot_open_leaves_nothing_running():
    class Broken(InMemoryTransport):
        closed = False

        def ping(self, node: str, timeout_s: float, size_bytes: int = 0):
            raise OSError("no network")

        def close(self) -> None:
            self.closed = True

    before, transport = threading.enumerate(), Broken({})
    broken = Device(GRAPH, servers=["a:1"], profile=TABLE, transport=transport)
    with pytest.raises(OSError, match="no network"):
        broken.open()
    assert transport.closed
    assert [thread for thread in threading.enumerate() if thread not in before] == []
    with pytest.raises(DeviceError, match="closed"):
        broken.infer(PICTURES[0])


def test_two_threads_use_two_policies_at_once():
    """Each policy waits for the other, so both requests are under way at the same time."""
    meeting = threading.Barrier(2, timeout=200)

    def waits_and_sends_to(server: int) -> Policy:
        def decide(_: OffloadObservation) -> OffloadDecision:
            meeting.wait()
            return OffloadDecision(np.array([0]), np.array([server]))

        return decide

    with device({"a:1": good_node(), "b:1": good_node()}, hedge=False) as shared, ThreadPoolExecutor(2) as pool:

        def ask(server: int) -> list[str]:
            policy = waits_and_sends_to(server)
            return [shared.infer(PICTURES[i % 3], policy=policy).executed_on for i in range(10)]

        assert list(pool.map(ask, (0, 1))) == [["a:1"] * 10, ["b:1"] * 10]


def test_settings_are_one_frozen_description():
    config = DeviceConfig(servers=["a:1"], bits=[32], objective=Objective(min_accuracy=0.0), deadline_s=2.0)
    with Device(GRAPH, config, profile=TABLE, transport=InMemoryTransport({"a:1": good_node()})) as ours:
        assert ours.config.deadline_s == 2.0
        assert (ours.config.servers, ours.config.bits, ours.config.profile) == (("a:1",), (32,), TABLE)
        assert config.profile is None, "the given one stays as it is"
        with pytest.raises(dataclasses.FrozenInstanceError):
            ours.config.deadline_s = 1.0  # type: ignore[misc]
        for name in ("policy", "hedge", "config", "planner", "deadline_s"):
            with pytest.raises(AttributeError):
                setattr(ours, name, None)
        assert ours.infer(PICTURES[0]).route.deadline_s == 2.0
        assert ours.infer(PICTURES[0], deadline_s=9.0).route.deadline_s == 9.0
    with pytest.raises(TypeError, match="speed"):
        Device(GRAPH, speed=3)


def test_hedging_can_be_chosen_for_each_request():
    """The server answers only after the device did; a request without hedging waits for it."""
    slow, answered = Switched(), threading.Event()
    with device({"slow:1": slow}) as ours:
        slow.bad = lambda: (answered.wait(200), None)[1]
        overtaken = ours.infer(PICTURES[0], policy=sends_to(0), hedge=True)
        answered.set()
        awaited = ours.infer(PICTURES[0], policy=sends_to(0), hedge=False)
    assert overtaken.executed_on == "device"
    assert "no reply after" in overtaken.fallback
    assert awaited.executed_on in ("slow:1", "device")
    assert "no reply" not in awaited.fallback
    for result in (overtaken, awaited):
        np.testing.assert_allclose(result.output, exact(PICTURES[0]), rtol=1e-4)


@pytest.mark.parametrize(
    ("code", "reason", "admitted"),
    [
        ("RESOURCE_EXHAUSTED", "queue_full", False),
        ("DEADLINE_EXCEEDED", "hopeless", False),
        ("UNAVAILABLE", "", True),
        ("INTERNAL", "", True),
    ],
)
def test_not_admitted_is_what_every_server_refused(code: str, reason: str, admitted: bool):
    bad = Switched()
    with device({"bad:1": bad}, hedge=False) as ours:
        bad.bad = fails(code, reason)
        result = ours.infer(PICTURES[0], policy=sends_to(0))
    assert (result.executed_on, bool(result.outcome.admitted)) == ("device", admitted)
    assert result.fallback == f"bad:1: {code} {reason or 'on purpose'}"


def test_a_request_that_the_second_server_takes_is_admitted_and_says_what_failed():
    full, good = Switched(), good_node()
    with device({"full:1": full, "good:1": good}, hedge=False) as both:
        full.bad = fails("RESOURCE_EXHAUSTED", "queue_full", 60.0)
        result = both.infer(PICTURES[0], policy=sends_to(0))
    assert result.fallback == "full:1: RESOURCE_EXHAUSTED queue_full"
    assert result.outcome.admitted
    assert result.record("planner", 0, 0.0, 0.0).fallback == result.fallback, "also if a server answered in the end"


def test_servers_that_do_not_answer_are_named_once(caplog: pytest.LogCaptureFixture):
    nobody = Device(GRAPH, servers=["gone:1", "away:2"], profile=TABLE, transport=InMemoryTransport({}))
    with caplog.at_level(logging.WARNING), nobody as ours:
        results = [ours.infer(picture) for picture in PICTURES]
    assert {result.executed_on for result in results} == {"device"}
    messages = [record.getMessage() for record in caplog.records]
    assert [message.split()[1] for message in messages] == ["gone:1", "away:2"]
    assert all("does not answer (" in message and "\n" not in message for message in messages)


def test_a_profile_of_another_machine_is_named(caplog: pytest.LogCaptureFixture, tmp_path: Path):
    other = TABLE.machine.model_copy(update={"cpu": "Cortex-A76", "onnxruntime": "1.2.3"})
    TABLE.model_copy(update={"machine": other}).save(tmp_path / "pi.json")
    TABLE.model_copy(update={"machine": this_machine()}).save(tmp_path / "here.json")
    with caplog.at_level(logging.WARNING):
        Device(GRAPH, profile=tmp_path / "here.json", transport=InMemoryTransport({})).close()
        assert not caplog.records
        Device(GRAPH, profile=tmp_path / "pi.json", threads=2, transport=InMemoryTransport({})).close()
    (said,) = [record.getMessage() for record in caplog.records]
    assert "pi.json was measured with processor Cortex-A76 (here " in said
    assert f"threads {TABLE.threads} (here 2), ONNX Runtime 1.2.3 (here " in said


def test_a_server_of_another_network_is_named_once_and_not_asked(caplog: pytest.LogCaptureFixture):
    requests: list[InferRequest] = []

    def other(request: InferRequest) -> InferReply:
        if not request.warm:
            requests.append(request)
        raise WireError("NOT_FOUND", "no model 'alexnet-cifar'", "not_found")

    with caplog.at_level(logging.WARNING), device({"other:1": other}) as ours:
        results = [ours.infer(picture) for picture in PICTURES]
    assert not requests
    assert {(result.executed_on, result.fallback) for result in results} == {("device", "")}
    (record,) = caplog.records
    assert record.getMessage().startswith("server other:1 cannot serve this network (NOT_FOUND")


def test_a_policy_that_fails_is_reported_once(caplog: pytest.LogCaptureFixture):
    def broken(_: object) -> OffloadDecision:
        raise RuntimeError("a bug\nwith details")

    with caplog.at_level(logging.WARNING), device({"a:1": good_node()}, policy=broken) as ours:
        for picture in PICTURES:
            np.testing.assert_allclose(ours.infer(picture).output, exact(picture), rtol=1e-4)
    (record,) = caplog.records
    assert record.getMessage() == "a policy failed and the planner decides instead: RuntimeError: a bug"

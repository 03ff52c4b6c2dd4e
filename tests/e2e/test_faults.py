"""Edge servers are killed, frozen, slowed and shut down while a device answers 200 requests: every answer is right,
none is lost, and what comes back is used again. Figures are printed; `pytest -rP` shows them."""

import contextlib
import math
import random
import socket
import statistics
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array
from tests.e2e.driving import (
    DEVICE_SLOWDOWN,
    GRAPH,
    LEFT_ALONE,
    PERIOD_S,
    PICTURES,
    REQUESTS,
    RETURN_S,
    Answered,
    SwitchedPolicy,
    ask,
    assert_none_twice,
    by_node,
    check,
    drive,
    fallbacks,
    latency_s,
    options_at,
    prefers,
    site,
    used_again,
)
from tests.e2e.sites import edges, relative_error, wait_until
from tests.patience import one_round_right
from tests.tables import analytic_table

from coinfer.graph.open_model import open_model
from coinfer.options.compile import compile_options
from coinfer.profile.table import ProfileTable
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.planning.observation import least_latency
from coinfer.runtime.device.result import Result
from coinfer.runtime.executor import Executor
from coinfer.runtime.transport.reply_threads import MAX_IDLE
from coinfer.types import Hop, OffloadDecision, OffloadObservation, Policy, Route
from coinfer.units import bits_of_bytes

FLOAT = onnx.TensorProto.FLOAT


def test_without_faults_nothing_falls_back_and_nothing_is_computed_twice(table: ProfileTable, exact: list[np.ndarray]):
    with site(table, device_slowdown=10 * DEVICE_SLOWDOWN) as (nodes, device):
        before = [node.served() for node in nodes]
        answers = drive(device, {})
        check(answers, exact)
        assert_none_twice(answers, nodes, before, [node.served() for node in nodes])
        assert sum(by_node(answers)[node.address] for node in nodes) > 0.5 * REQUESTS


@pytest.mark.parametrize("cut", ["input", "pool1"])
def test_an_edge_is_killed(table: ProfileTable, exact: list[np.ndarray], cut: str):
    with site(table, cut=cut) as (nodes, device):
        killed_s = []

        def kill() -> None:
            used_again(device, nodes[0])
            killed_s.append(time.monotonic())
            nodes[0].kill()

        answers = drive(device, {70: kill, 120: nodes[0].launch}, policy=prefers(0))
        check(answers, exact)
        dead = fallbacks(answers[:120], nodes[0], killed_s[0])
        assert len(dead) <= LEFT_ALONE, "an edge that fails is left alone after two failures in a row"
        nodes[0].wait_ready()
        took_s, calm_s = used_again(device, nodes[0]), statistics.median(latency_s(answers[:70]))
        slowest_s = max(latency_s(dead), default=0.0)
        print(f"killed: {len(dead)} requests taken elsewhere, slowest {slowest_s:.3f} s, calm median {calm_s:.3f} s")
        print(f"killed: used again {took_s:.1f} s after its return")


def test_a_large_tensor_goes_to_another_edge_when_one_is_killed(tmp_path: Path):
    """gRPC's own retry gives up silently beyond 256 KiB; here 12.8 MB cross, as after VGG16's first layer."""
    path = wide_network(tmp_path)
    graph = open_model(path)
    table = analytic_table(graph, whole_s=0.02)
    options = compile_options(graph, table, (32,))
    wide = options.cuts.index(("wide",))
    assert graph.tensors["wide"].size_bits > bits_of_bytes(12e6)
    options = options.take(np.array([wide, len(options.cuts) - 1]))
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    whole = Executor(graph).run({"x": x})[0]["y"]
    with contextlib.ExitStack() as stack:
        nodes = stack.enter_context(edges([str(path)], [("--slowdown", "5")] * 2))
        addresses = [node.address for node in nodes]
        device = stack.enter_context(Device(graph, servers=addresses, profile=table, options=options))

        def infer(policy: Policy) -> Result:
            return device.infer(x, policy=policy)

        wait_until(lambda: infer(prefers(0)).executed_on == addresses[0], RETURN_S, "the first edge answers")
        results: list[Result] = []

        def kill_when_chosen(seen: OffloadObservation) -> OffloadDecision:
            if seen.server_room[0] > 0 and nodes[0].is_running:
                nodes[0].kill()
            return prefers(0)(seen)

        wait_until(
            lambda: results.append(infer(kill_when_chosen)) or not nodes[0].is_running,
            RETURN_S,
            "it is chosen and dies",
        )
        assert nodes[0].address in results[-1].fallback
        thread = threading.Thread(target=lambda: [results.append(infer(prefers(1))) for _ in range(20)])
        thread.start()
        wait_until(lambda: len(results) >= 5, RETURN_S, "some are answered")
        nodes[1].kill()  # while a request is on its way, more often than not
        thread.join()
        results.append(infer(prefers(1)))
    assert all(relative_error(result.output, whole) <= 1e-4 for result in results)
    assert results[-1].executed_on == "device"


def wide_network(folder: Path) -> Path:
    """64 channels of the input's size, then their means."""
    rng = np.random.default_rng(0)
    weights = {"kernel": rng.standard_normal((64, 3, 3, 3)), "matrix": rng.standard_normal((64, 10))}
    nodes = [
        make_node("Conv", ["x", "kernel"], ["conv"], pads=[1, 1, 1, 1]),
        make_node("Relu", ["conv"], ["wide"]),
        make_node("GlobalAveragePool", ["wide"], ["mean"]),
        make_node("Flatten", ["mean"], ["flat"]),
        make_node("MatMul", ["flat", "matrix"], ["y"]),
    ]
    ends = [make_tensor_value_info("x", FLOAT, [1, 3, 224, 224])], [make_tensor_value_info("y", FLOAT, [1, 10])]
    initial = [from_array(value.astype(np.float32), name) for name, value in weights.items()]
    model = make_model(make_graph(nodes, "wide", *ends, initial), opset_imports=[make_opsetid("", 17)], ir_version=10)
    onnx.save(model, folder / "wide.onnx")
    return folder / "wide.onnx"


def test_an_edge_freezes_and_thaws(table: ProfileTable, exact: list[np.ndarray]):
    seen: dict[str, float] = {}
    answered: set[int] = set()
    more: list[Answered] = []

    def freeze_when_chosen(observed: OffloadObservation) -> OffloadDecision:
        with choosing:
            if observed.server_room[0] > 0 and not seen:
                nodes[0].freeze()
                seen["frozen_s"] = time.monotonic()
                watching.start()
        return prefers(0)(observed)

    def freeze() -> None:
        switched.policy = freeze_when_chosen

    def watch() -> None:
        seen["noticed_s"] = wait_until(lambda: device.observe().server_room[0] == 0, RETURN_S, "noticed")

    def thaw() -> None:
        wait_until(lambda: seen or more.append(ask(device, policy=switched)), RETURN_S, "the edge is chosen")
        wait_until(lambda: answered >= set(range(120)), RETURN_S, "nobody waits for the frozen edge")
        watching.join()
        nodes[0].thaw()

    with site(table) as (nodes, device):
        before = [node.served() for node in nodes]
        switched = SwitchedPolicy(prefers(0))
        choosing, watching = threading.Lock(), threading.Thread(target=watch)
        answers = drive(device, {50: freeze, 180: thaw}, answered=answered, policy=switched)
        served = [node.served() for node in nodes]
        check(answers, exact)
        meanwhile = [found for found in answers[:120] if found.asked_s > seen["frozen_s"]]
        assert all(found.result.executed_on != nodes[0].address for found in meanwhile)
        late = fallbacks([*answers[:180], *more], nodes[0], seen["frozen_s"])
        assert 0 < len(late) <= LEFT_ALONE
        assert_none_twice([*answers, *more], nodes, before, served)
        took_s, slowest_s = used_again(device, nodes[0]), max(latency_s(late))
        print(f"frozen: noticed after {seen['noticed_s']:.3f} s; used again {took_s:.1f} s after the run")
        print(f"frozen: {len(late)} requests overtaken, slowest {slowest_s:.3f} s")


def test_a_grey_edge_that_runs_a_tenth_of_the_time(table: ProfileTable, exact: list[np.ndarray]):
    with site(table) as (nodes, device):

        def play() -> list[str]:
            over, switched = threading.Event(), SwitchedPolicy(prefers(0))

            def turn_grey() -> None:
                switched.policy = least_latency
                thread.start()

            def stutter() -> None:
                while not over.is_set():
                    nodes[0].freeze()
                    over.wait(0.09)
                    nodes[0].thaw()
                    over.wait(0.01)

            used_again(device, nodes[0])
            thread = threading.Thread(target=stutter)
            answers = drive(device, {50: turn_grey}, policy=switched)
            over.set()
            thread.join()
            check(answers, exact)
            parts = {"calm": answers[:50], "grey": answers[100:]}
            share = {name: by_node(part)[nodes[0].address] / len(part) for name, part in parts.items()}
            median_s = {name: statistics.median(latency_s(part)) for name, part in parts.items()}
            print(f"grey edge: its share of the requests {share}, median latency {median_s}")
            return [] if share["grey"] < share["calm"] / 2 else [f"its share of the requests {share}"]

        one_round_right(play)


def test_an_edge_that_is_frozen_from_the_start_holds_nothing_up(table: ProfileTable, exact: list[np.ndarray]):
    with edges([GRAPH.name], [("--slowdown", "15")] * 2) as nodes:
        nodes[0].freeze()
        addresses = [node.address for node in nodes]
        with Device(
            GRAPH, servers=addresses, profile=table, options=options_at(table), slowdown=DEVICE_SLOWDOWN
        ) as device:
            answers = drive(device, {}, count=20, policy=prefers(0))
            check(answers, exact, count=20)
            assert by_node(answers)[nodes[0].address] == 0
            used_again(device, nodes[1])
            nodes[0].thaw()
            used_again(device, nodes[0])


def test_a_route_with_a_dead_or_frozen_hop_is_finished_by_the_device(table: ProfileTable, exact: list[np.ndarray]):
    with site(table, (2.0, 2.0, 2.0)) as (nodes, device):
        ends = [("pool1",), ("pool2",), ("conv5.relu",), GRAPH.outputs]
        names = ["device", *device.servers]
        route = Route(tuple(Hop(name, end, 32) for name, end in zip(names, ends, strict=True)), 0, math.inf)

        def infer() -> Result:
            result = device.infer_by_route(PICTURES[0], route)
            assert relative_error(result.output, exact[0]) <= 1e-4
            return result

        wait_until(lambda: infer().executed_on == nodes[2].address, RETURN_S, "the route works")
        for hop in range(3):
            nodes[hop].freeze()
            result = infer()
            assert result.executed_on == "device"
            assert "UNAVAILABLE" in result.fallback
            nodes[hop].thaw()
            wait_until(lambda: infer().executed_on == nodes[2].address, RETURN_S, "the route works again")
        nodes[1].kill()
        assert infer().executed_on == "device"
        nodes[1].launch()
        nodes[1].wait_ready()
        wait_until(lambda: infer().executed_on == nodes[2].address, RETURN_S, "the route works again")


def threads_of_requests() -> list[threading.Thread]:
    """All but those that wait for the next reply."""
    return [thread for thread in threading.enumerate() if thread.name != "coinfer-reply"]


@pytest.mark.slow
def test_random_faults_at_random_moments(table: ProfileTable, exact: list[np.ndarray]):
    """Also what a device holds (threads, files, backlog) is as before in the end, however its requests went."""
    rng, over = random.Random(7), threading.Event()

    def torment() -> None:
        while not over.is_set():
            node = rng.choice(nodes)
            match rng.choice(["kill", "terminate", "freeze", "stutter"]):
                case "kill":
                    node.kill()
                    time.sleep(rng.uniform(0.0, 0.5))
                    node.launch()
                    node.wait_ready()
                case "terminate":
                    node.terminate()
                    node.launch()
                    node.wait_ready()
                case "freeze":
                    node.freeze()
                    time.sleep(rng.uniform(0.0, 1.5))
                    node.thaw()
                case "stutter":
                    for _ in range(10):
                        node.freeze()
                        time.sleep(rng.uniform(0.0, 0.05))
                        node.thaw()
                        time.sleep(rng.uniform(0.0, 0.02))

    def anything(_: OffloadObservation) -> OffloadDecision:
        return OffloadDecision(np.array([0]), np.array([rng.randrange(3)]))

    with site(table, cut="pool1") as (nodes, device):
        drive(device, {}, count=20, policy=anything)
        process = psutil.Process()
        files, threads = process.num_fds(), len(threads_of_requests())
        thread = threading.Thread(target=torment)
        answers = drive(device, {10: thread.start}, count=2 * REQUESTS, policy=anything)
        over.set()
        thread.join()
        check(answers, exact, count=2 * REQUESTS)
        for node in nodes:
            used_again(device, node)
        wait_until(lambda: device.observe().device_backlog_s[0] < 1e-9, RETURN_S, "the device has worked off its queue")
        wait_until(lambda: len(threads_of_requests()) <= threads + 1, RETURN_S, "threads end")
        assert threading.active_count() <= threads + 1 + MAX_IDLE, "few wait for the next reply"
        wait_until(lambda: process.num_fds() <= files + 6, RETURN_S, "connections are closed")
        in_vain = sum(bool(answer.result.fallback) for answer in answers)
        times_s = latency_s(answers)
        print(
            f"random faults: {by_node(answers)['device']} of {len(answers)} answered by the device, {in_vain} in vain"
        )
        print(f"random faults: median {statistics.median(times_s):.3f} s, slowest {max(times_s):.3f} s")


@pytest.mark.slow
def test_all_edges_are_shut_down_and_started_again_one_after_the_other(table: ProfileTable, exact: list[np.ndarray]):
    statuses = []

    def roll() -> None:
        for node in nodes:
            statuses.append(node.terminate())
            node.launch()
            node.wait_ready()

    with site(table) as (nodes, device):
        thread = threading.Thread(target=roll)
        answers = drive(device, {30: thread.start}, period_s=1.5 * PERIOD_S, policy=prefers(0))
        thread.join()
        check(answers, exact)
        assert statuses == [0, 0, 0]
        moved = [found for found in answers if found.result.fallback]
        assert not any(bug in found.result.fallback for found in moved for bug in ("INTERNAL", "UNKNOWN", "INVALID"))
        took_s = used_again(device, nodes[0])
        print(f"rolling restart: {sorted(by_node(answers).values())} answers by node, {len(moved)} taken elsewhere")
        print(f"rolling restart: the fastest used again after {took_s:.1f} s")


@pytest.mark.slow
def test_all_edges_vanish_and_the_device_answers(table: ProfileTable, exact: list[np.ndarray]):
    doors: list[Door] = []
    gone_s: list[float] = []
    with site(table) as (nodes, device), contextlib.ExitStack() as stack:

        def vanish() -> None:
            for node in nodes:
                node.kill()
            gone_s.append(time.monotonic())
            doors.extend(stack.enter_context(Door(node.address)) for node in nodes)

        began_s = time.monotonic()
        answers = drive(device, {40: vanish}, period_s=2 * PERIOD_S)
        lasted_s = time.monotonic() - began_s
        check(answers, exact)
        asked = {node.address: len(fallbacks(answers, node, gone_s[0])) for node in nodes}
        knocks = [door.knocks for door in doors]
        print(f"all gone: asked in vain {list(asked.values())}, connection attempts {knocks} in {lasted_s:.1f} s")
        assert {found.result.executed_on for found in answers[60:]} == {"device"}
        assert all(count <= LEFT_ALONE for count in asked.values())
        assert all(0 < count <= 5 + 1.5 * lasted_s for count in knocks), "about one a second after the first few"


class Door:
    """Takes an edge's place: counts who comes, and closes."""

    def __init__(self, address: str):
        self.knocks = 0
        host, _, port = address.rpartition(":")
        self._socket = socket.create_server((host, int(port)))
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Door":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                visitor, _ = self._socket.accept()
                self.knocks += 1
                visitor.close()

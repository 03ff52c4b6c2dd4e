"""Edge servers are killed, frozen, slowed, overloaded and shut down while a device answers 200 requests: every answer
is right, none is lost, and what comes back is used again. Figures are printed; `pytest -rP` shows them."""

import collections
import contextlib
import math
import random
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import psutil
import pytest
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array
from tests.e2e.sites import Edge, edges, relative_error, wait_until
from tests.tables import analytic_table

from coinfer.graph import zoo
from coinfer.graph.zoo import open_model
from coinfer.profile.options import Options, compile_options
from coinfer.profile.table import ProfileTable
from coinfer.runtime.device import Device, Result
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import load_images, preprocess
from coinfer.runtime.messages import InferReply, InferRequest, TransportError
from coinfer.runtime.planner import least_latency
from coinfer.runtime.profiling import measure_with_codec, samples_for
from coinfer.runtime.rpc import GrpcTransport
from coinfer.runtime.tensors import pack, unpack
from coinfer.types import Hop, OffloadDecision, OffloadObservation, Policy, Route
from coinfer.units import bits_of_bytes

FLOAT = onnx.TensorProto.FLOAT
GRAPH = zoo.build("alexnet-cifar")
PICTURES = [picture for _, picture in load_images()]
REQUESTS = 200
PERIOD_S = 0.02
THREADS = 8
FAST_FIRST = (15.0, 30.0, 40.0)
"""Slow-down of each edge: about 7, 15 and 20 ms for a request, nearly all of it sleep."""
DEVICE_SLOWDOWN = 80.0
RETURN_S = 60.0
"""Only ends a test that has failed; a server that came back is asked after at most 8 s."""


class Answered(NamedTuple):
    request: int
    asked_s: float
    done_s: float
    result: Result


@pytest.fixture(scope="module")
def table() -> ProfileTable:
    return measure_with_codec(GRAPH, 1, samples_for(GRAPH))


@pytest.fixture(scope="module")
def exact() -> list[np.ndarray]:
    assert GRAPH.image is not None
    executor = Executor(GRAPH)
    inputs = [{GRAPH.inputs[0]: preprocess(picture, GRAPH.image)} for picture in PICTURES]
    return [executor.run(found)[0][GRAPH.outputs[0]] for found in inputs]


@contextlib.contextmanager
def site(
    table: ProfileTable, slowdowns: Sequence[float] = FAST_FIRST, *flags: str, cut: str = GRAPH.inputs[0]
) -> Iterator[tuple[list[Edge], Device]]:
    """Three edges and a device that may send them what crosses `cut`; none may have logged an error in the end."""
    options = options_at(table, cut)
    with edges([GRAPH.name], [("--slowdown", str(slowdown), *flags) for slowdown in slowdowns]) as nodes:
        addresses = [node.address for node in nodes]
        with Device(GRAPH, addresses, profile=table, options=options, slowdown=DEVICE_SLOWDOWN) as device:
            yield nodes, device
        for node in nodes:
            assert "Traceback" not in node.log()
            assert " ERROR " not in node.log()


def options_at(table: ProfileTable, cut: str = GRAPH.inputs[0]) -> Options:
    """What crosses `cut` is sent, or nothing is."""
    options = compile_options(GRAPH, table, (32,))
    return options.take(np.array([options.cuts.index((cut,)), len(options.cuts) - 1]))


def drive(
    device: Device,
    actions: Mapping[int, Callable[[], object]],
    count: int = REQUESTS,
    period_s: float = PERIOD_S,
) -> list[Answered]:
    """Asks the device every `period_s`, whatever is still open; `actions` happen just before their request. A request
    that raises ends the test."""

    def ask(request: int) -> Answered:
        asked_s = time.monotonic()
        result = device.infer(PICTURES[request % len(PICTURES)])
        return Answered(request, asked_s, time.monotonic(), result)

    began_s = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        asked = []
        for request in range(count):
            time.sleep(max(began_s + request * period_s - time.monotonic(), 0.0))
            actions.get(request, int)()
            asked.append(pool.submit(ask, request))
        return [future.result() for future in asked]


def check(answers: Sequence[Answered], exact: Sequence[np.ndarray], count: int = REQUESTS) -> None:
    """Each request has one answer, and it is the right one."""
    assert [answer.request for answer in answers] == list(range(count))
    wrong = [
        answer.request
        for answer in answers
        if relative_error(answer.result.output, exact[answer.request % len(exact)]) > 1e-4
    ]
    assert not wrong


def assert_none_twice(
    answers: Sequence[Answered], nodes: Sequence[Edge], before: Sequence[int], after: Sequence[int]
) -> None:
    """Each node computed once for each of its answers, and at most once where it was asked in vain."""
    for node, first, last in zip(nodes, before, after, strict=True):
        answered = by_node(answers)[node.address]
        assert answered <= last - first <= answered + len(fallbacks(answers, node))


def by_node(answers: Sequence[Answered]) -> collections.Counter[str]:
    return collections.Counter(answer.result.executed_on for answer in answers)


def fallbacks(answers: Sequence[Answered], node: Edge, since_s: float = 0.0) -> list[Answered]:
    """Requests that this node was asked for in vain, of those that ended after a moment."""
    return [answer for answer in answers if node.address in answer.result.fallback and answer.done_s > since_s]


def latency_s(answers: Sequence[Answered]) -> list[float]:
    return [answer.done_s - answer.asked_s for answer in answers]


def used_again(device: Device, node: Edge) -> float:
    """Waits until a request is answered there; returns how long that took."""
    device.policy = prefers(device.servers.index(node.address))
    return wait_until(
        lambda: device.infer(PICTURES[0]).executed_on == node.address, RETURN_S, f"{node.address} is used again"
    )


def prefers(server: int) -> Policy:
    """Sends to one server as long as that may be asked; otherwise the device puts its own policy in place."""
    return lambda _: OffloadDecision(np.array([0]), np.array([server]))


def test_without_faults_nothing_falls_back_and_nothing_is_computed_twice(table: ProfileTable, exact: list[np.ndarray]):
    with site(table) as (nodes, device):
        before = [node.served() for node in nodes]
        answers = drive(device, {})
        check(answers, exact)
        assert_none_twice(answers, nodes, before, [node.served() for node in nodes])
        assert sum(by_node(answers)[node.address] for node in nodes) > 0.5 * REQUESTS


@pytest.mark.parametrize("cut", ["input", "pool1"])
def test_an_edge_is_killed(table: ProfileTable, exact: list[np.ndarray], cut: str):
    with site(table, cut=cut) as (nodes, device):
        device.policy = prefers(0)
        killed_s = []

        def kill() -> None:
            killed_s.append(time.monotonic())
            nodes[0].kill()

        answers = drive(device, {70: kill, 120: nodes[0].launch})
        check(answers, exact)
        assert by_node(answers[:70])[nodes[0].address] > 35
        dead = fallbacks(answers, nodes[0], killed_s[0])
        assert len(dead) <= THREADS + 2, "an edge that fails is left alone after two failures in a row"
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
        device = stack.enter_context(Device(graph, [n.address for n in nodes], profile=table, options=options))
        device.policy = prefers(0)
        wait_until(lambda: device.infer(x).executed_on == nodes[0].address, RETURN_S, "the first edge answers")
        results: list[Result] = []
        thread = threading.Thread(target=lambda: [results.append(device.infer(x)) for _ in range(20)])
        thread.start()
        wait_until(lambda: len(results) >= 4, RETURN_S, "some are answered")
        nodes[0].kill()
        thread.join()
    assert len(results) == 20
    assert all(relative_error(result.output, whole) <= 1e-4 for result in results)
    assert any(nodes[0].address in result.fallback for result in results)
    assert {result.executed_on for result in results[-10:]} <= {nodes[1].address, "device"}


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
    seen = {}

    def freeze() -> None:
        nodes[0].freeze()
        seen["frozen_s"] = time.monotonic()
        threading.Thread(target=watch).start()

    def watch() -> None:
        seen["noticed_s"] = wait_until(lambda: device.observe().server_room[0] == 0, RETURN_S, "noticed")

    def thaw() -> None:
        seen["thawed_s"] = time.monotonic()
        nodes[0].thaw()

    with site(table) as (nodes, device):
        device.policy = prefers(0)
        before = [node.served() for node in nodes]
        answers = drive(device, {50: freeze, 180: thaw})
        served = [node.served() for node in nodes]
        check(answers, exact)
        meanwhile = [found for found in answers[:120] if found.asked_s > seen["frozen_s"]]
        assert all(found.done_s < seen["thawed_s"] for found in meanwhile), "nobody waits for the frozen edge"
        assert all(found.result.executed_on != nodes[0].address for found in meanwhile)
        late = fallbacks(answers[:180], nodes[0], seen["frozen_s"])
        assert 0 < len(late) <= THREADS + 2
        assert_none_twice(answers, nodes, before, served)
        took_s, slowest_s = used_again(device, nodes[0]), max(latency_s(late))
        print(f"frozen: noticed after {seen['noticed_s']:.3f} s; used again {took_s:.1f} s after the run")
        print(f"frozen: {len(late)} requests overtaken, slowest {slowest_s:.3f} s")


def test_a_grey_edge_that_runs_a_tenth_of_the_time(table: ProfileTable, exact: list[np.ndarray]):
    over = threading.Event()

    def turn_grey() -> None:
        device.policy = least_latency
        thread.start()

    def stutter() -> None:
        while not over.is_set():
            nodes[0].freeze()
            over.wait(0.09)
            nodes[0].thaw()
            over.wait(0.01)

    with site(table) as (nodes, device):
        device.policy = prefers(0)
        thread = threading.Thread(target=stutter)
        answers = drive(device, {50: turn_grey})
        over.set()
        thread.join()
        check(answers, exact)
        parts = {"calm": answers[:50], "grey": answers[100:]}
        share = {name: by_node(part)[nodes[0].address] / len(part) for name, part in parts.items()}
        median_s = {name: statistics.median(latency_s(part)) for name, part in parts.items()}
        print(f"grey edge: its share of the requests {share}, median latency {median_s}")
        assert share["grey"] < share["calm"] / 2


def test_an_edge_that_is_frozen_from_the_start_holds_nothing_up(table: ProfileTable, exact: list[np.ndarray]):
    with edges([GRAPH.name], [("--slowdown", "15")] * 2) as nodes:
        nodes[0].freeze()
        addresses = [node.address for node in nodes]
        with Device(GRAPH, addresses, profile=table, options=options_at(table), slowdown=DEVICE_SLOWDOWN) as device:
            device.policy = prefers(0)
            answers = drive(device, {}, count=20)
            check(answers, exact, count=20)
            assert by_node(answers)[nodes[0].address] == 0
            assert by_node(answers)[nodes[1].address] > 0
            nodes[0].thaw()
            used_again(device, nodes[0])


def test_a_route_with_a_dead_or_frozen_hop_is_finished_by_the_device(table: ProfileTable, exact: list[np.ndarray]):
    with site(table, (2.0, 2.0, 2.0)) as (nodes, device):
        ends = [("pool1",), ("pool2",), ("conv5.relu",), GRAPH.outputs]
        names = ["device", *device.servers]
        route = Route(tuple(Hop(name, end, 32) for name, end in zip(names, ends, strict=True)), 0, math.inf)

        def follow() -> Result:
            result = device.follow(route, PICTURES[0])
            assert relative_error(result.output, exact[0]) <= 1e-4
            return result

        assert follow().executed_on == nodes[2].address
        for hop in range(3):
            nodes[hop].freeze()
            result = follow()
            assert result.executed_on == "device"
            assert "UNAVAILABLE" in result.fallback
            nodes[hop].thaw()
            wait_until(lambda: follow().executed_on == nodes[2].address, RETURN_S, "the route works again")
        nodes[1].kill()
        assert follow().executed_on == "device"
        nodes[1].launch()
        nodes[1].wait_ready()
        wait_until(lambda: follow().executed_on == nodes[2].address, RETURN_S, "the route works again")


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
        device.policy = anything
        drive(device, {}, count=20)
        process = psutil.Process()
        files, threads = process.num_fds(), threading.active_count()
        thread = threading.Thread(target=torment)
        answers = drive(device, {10: thread.start}, count=2 * REQUESTS)
        over.set()
        thread.join()
        check(answers, exact, count=2 * REQUESTS)
        for node in nodes:
            used_again(device, node)
        assert device.observe().device_backlog_s[0] == pytest.approx(0.0, abs=1e-9)
        wait_until(lambda: threading.active_count() <= threads + 1, RETURN_S, "threads end")
        assert process.num_fds() <= files + 6
        in_vain = sum(bool(answer.result.fallback) for answer in answers)
        times_s = latency_s(answers)
        print(
            f"random faults: {by_node(answers)['device']} of {len(answers)} answered by the device, {in_vain} in vain"
        )
        print(f"random faults: median {statistics.median(times_s):.3f} s, slowest {max(times_s):.3f} s")


def test_all_edges_are_shut_down_and_started_again_one_after_the_other(table: ProfileTable, exact: list[np.ndarray]):
    statuses = []

    def roll() -> None:
        for node in nodes:
            statuses.append(node.terminate())
            node.launch()
            node.wait_ready()

    with site(table) as (nodes, device):
        device.policy = prefers(0)
        thread = threading.Thread(target=roll)
        answers = drive(device, {30: thread.start}, period_s=1.5 * PERIOD_S)
        thread.join()
        check(answers, exact)
        assert statuses == [0, 0, 0]
        moved = [found for found in answers if found.result.fallback]
        assert not any(bug in found.result.fallback for found in moved for bug in ("INTERNAL", "UNKNOWN", "INVALID"))
        took_s = used_again(device, nodes[0])
        print(f"rolling restart: {sorted(by_node(answers).values())} answers by node, {len(moved)} taken elsewhere")
        print(f"rolling restart: the fastest used again after {took_s:.1f} s")


def test_all_edges_vanish_and_the_device_answers(table: ProfileTable, exact: list[np.ndarray]):
    doors: list[Door] = []
    with site(table) as (nodes, device), contextlib.ExitStack() as stack:

        def vanish() -> None:
            for node in nodes:
                node.kill()
            doors.extend(stack.enter_context(Door(node.address)) for node in nodes)

        began_s = time.monotonic()
        answers = drive(device, {40: vanish}, period_s=2 * PERIOD_S)
        lasted_s = time.monotonic() - began_s
        check(answers, exact)
        asked = {node.address: len(fallbacks(answers, node)) for node in nodes}
        knocks = [door.knocks for door in doors]
        print(f"all gone: asked in vain {list(asked.values())}, connection attempts {knocks} in {lasted_s:.1f} s")
        assert {found.result.executed_on for found in answers[60:]} == {"device"}
        assert all(count <= THREADS + 2 for count in asked.values())
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


# --- overload

OVERLOADED = (40.0, 60.0, 60.0)
"""About 18 ms for a request on the edge that is overloaded: a capacity that three times of is cheap to ask for."""
DEADLINE_S = 0.6
"""More than a full queue of 8 takes."""
CALM_S = 2.0
GOODPUT = 0.95
ROUNDS = 3
"""The capacity is that of an emulated processor, measured with a noise of some percent; collapse is a factor of 2."""


def whole_request(deadline_s: float) -> InferRequest:
    assert GRAPH.image is not None
    tensor = pack(GRAPH.inputs[0], preprocess(PICTURES[0], GRAPH.image), 32)
    return InferRequest(GRAPH.name, (tensor,), GRAPH.outputs, deadline_s=deadline_s)


def capacity(transport: GrpcTransport, address: str) -> float:
    """Requests per second with always a few under way and none refused."""
    finished_s: list[float] = []
    until_s = time.monotonic() + CALM_S

    def ask() -> None:
        while time.monotonic() < until_s:
            transport.send(address, whole_request(10.0), 10.0).result()
            finished_s.append(time.monotonic())

    with ThreadPoolExecutor(4) as pool:
        for asking in [pool.submit(ask) for _ in range(4)]:
            asking.result()
    finished_s.sort()
    return (len(finished_s) - 1) / (finished_s[-1] - finished_s[0])


class OpenLoad:
    """Another client, which asks at its rate whatever the answers."""

    def __init__(self, transport: GrpcTransport, address: str, rate: float):
        self._transport, self._address, self._rate = transport, address, rate
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.began_s = self.ended_s = 0.0
        self.in_time_s: list[float] = []
        """When good answers came."""
        self.refusals: list[tuple[TransportError, float]] = []
        """With the seconds that each took."""
        self.late = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        self.ended_s = time.monotonic()

    def goodput(self, others: Sequence[Answered]) -> float:
        """Answers in time per second, those of other clients included."""
        settled_s = self.began_s + 0.5
        good_s = self.in_time_s + [found.done_s for found in others if found.result.executed_on == self._address]
        return sum(settled_s <= at_s <= self.ended_s for at_s in good_s) / (self.ended_s - settled_s)

    def _run(self) -> None:
        self.began_s = time.monotonic()
        sent = 0
        while not self._over.is_set():
            time.sleep(max(self.began_s + sent / self._rate - time.monotonic(), 0.0))
            asked_s, sent = time.monotonic(), sent + 1
            future = self._transport.send(self._address, whole_request(DEADLINE_S), 10.0)
            future.add_done_callback(lambda done, asked_s=asked_s: self._count(done, asked_s))

    def _count(self, done: Future[InferReply], asked_s: float) -> None:
        now_s, error = time.monotonic(), done.exception()
        if isinstance(error, TransportError):
            self.refusals.append((error, now_s - asked_s))
        elif now_s - asked_s <= DEADLINE_S:
            self.in_time_s.append(now_s)
        else:
            self.late += 1


def test_an_overloaded_edge_keeps_its_goodput_and_the_device_its_answers(table: ProfileTable, exact: list[np.ndarray]):
    with site(table, OVERLOADED, "--queue", "8") as (nodes, device), contextlib.closing(GrpcTransport()) as other:
        shares: list[float] = []
        while len(shares) < ROUNDS and max(shares, default=0.0) < GOODPUT:
            calm = capacity(other, nodes[0].address)
            load = OpenLoad(other, nodes[0].address, 3 * calm)
            answers = drive(device, {50: load.start, 190: load.stop}, period_s=1.5 * PERIOD_S)
            calm = (calm + capacity(other, nodes[0].address)) / 2
            check(answers, exact)
            shares.append(load.goodput(answers) / calm)
            refused = [error for error, _ in load.refusals]
            answered_s = [took_s for _, took_s in load.refusals]
            print(f"overloaded: goodput {shares[-1]:.3f} of the calm capacity of {calm:.1f}/s")
            print(f"overloaded: {len(load.in_time_s)} in time, {load.late} late, {len(refused)} refused, "
                  f"in {statistics.median(answered_s) * 1e3:.1f} ms (median)")  # fmt: skip
            assert load.late <= 0.01 * len(load.in_time_s), "what is admitted is answered in time"
            assert {(error.code, error.reason) for error in refused} == {("RESOURCE_EXHAUSTED", "queue_full")}
            assert all(error.pushback_s is not None and error.pushback_s > 0 for error in refused)
            assert len(refused) > len(load.in_time_s), "three times the capacity means two refusals for each answer"
            assert statistics.median(answered_s) < 1 / calm, "a refusal costs less than a place in the queue"
        assert max(shares) >= GOODPUT


def test_a_deadline_that_cannot_be_held_costs_no_computing(table: ProfileTable):
    with edges([GRAPH.name], [("--slowdown", "40")]) as (node,), contextlib.closing(GrpcTransport()) as transport:
        service_s = [transport.send(node.address, whole_request(10.0), 10.0).result().server_s for _ in range(5)]
        before = node.served()
        hopeless = [transport.send(node.address, whole_request(min(service_s) / 10), 10.0) for _ in range(20)]
        for future in hopeless:
            error = future.exception()
            assert isinstance(error, TransportError)
            assert error.code == "DEADLINE_EXCEEDED"
        patient = [transport.send(node.address, whole_request(10.0), 10.0) for _ in range(4)]
        hurried = [transport.send(node.address, whole_request(max(service_s) * 1.5), 10.0) for _ in range(8)]
        for future in patient:
            assert unpack(future.result().outputs[0]).shape == (1, 10)
        codes = [error.code for future in hurried if isinstance(error := future.exception(), TransportError)]
        assert set(codes) == {"DEADLINE_EXCEEDED"}
        assert len(codes) >= 7, "four requests wait already"
        assert node.served() - before == len(patient) + len(hurried) - len(codes), "none ran in vain"

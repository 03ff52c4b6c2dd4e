"""Stock clients of both protocols ask a gateway, whose device has a server in memory."""

import asyncio
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tests.paths import ROOT
from tests.runtime.device.test_device import EXACT, GRAPH, PICTURES, TABLE, Switched
from tests.runtime.edge.edge_process import EdgeThread, edge_thread, unencoded
from tritonclient.utils import InferenceServerException

from coinfer.errors import UserError
from coinfer.runtime import tracing
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.objective import Objective
from coinfer.runtime.device.processor_queue import ProcessorQueue
from coinfer.runtime.gateway.server import GatewaySettings, run_gateway
from coinfer.runtime.gateway.service import GatewayService
from coinfer.runtime.images import preprocess
from coinfer.runtime.protocol.messages import InferRequest, RequestedObjective, WireError, from_array
from coinfer.runtime.transport.base import InMemoryTransport
from coinfer.runtime.turns import set_caller

assert GRAPH.image is not None
BATCH = np.concatenate([preprocess(picture, GRAPH.image) for picture in PICTURES[:2]])
EXPECTED = EXACT.run({"input": BATCH}, GRAPH.outputs)[0]["logits"]
CONFIG = DeviceConfig(profile=TABLE, servers=["a:1"], objective=Objective(power_w=2.0), bits=(32,), hedge=False)


@pytest.fixture(scope="module")
def node() -> Switched:
    return Switched()


@pytest.fixture(scope="module")
def nothing_measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Without what this user has measured before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def gateway(node: Switched, nothing_measured: None) -> Iterator[EdgeThread]:
    with (
        Device(GRAPH, replace(CONFIG, max_in_flight=2), transport=InMemoryTransport({"a:1": node})) as device,
        edge_thread(lambda: GatewayService([device], concurrency=2, queue=1)) as gateway,
    ):
        yield gateway


@pytest.fixture(params=["grpc", "http"])
def stock(request: pytest.FixtureRequest, gateway: EdgeThread) -> Iterator[tuple[Any, Any]]:
    module = {"grpc": triton_grpc, "http": triton_http}[request.param]
    with module.InferenceServerClient(getattr(gateway, request.param)) as client:
        yield module, client


def tensor(module: Any, values: np.ndarray, datatype: str = "FP32", name: str = "input") -> Any:
    found = module.InferInput(name, list(values.shape), datatype)
    found.set_data_from_numpy(values)
    return found


def parameters(result: Any) -> dict[str, Any]:
    """The parameters of a reply, of either client."""
    response = result.get_response()
    if isinstance(response, dict):
        return response["parameters"]
    return {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in response.parameters.items()}


def test_a_batch_is_answered_by_the_server_and_the_reply_says_so(stock: tuple[Any, Any]):
    module, client = stock
    outputs = [module.InferRequestedOutput("logits")]
    result = client.infer(GRAPH.name, [tensor(module, BATCH)], outputs=outputs, request_id="r1")
    np.testing.assert_allclose(result.as_numpy("logits"), EXPECTED, rtol=1e-4, atol=1e-5)
    said = parameters(result)
    assert said["executed_on"] == "a:1"
    hops = json.loads(said["executed"])
    assert [(hop["node"], hop["cut"]) for hop in hops] == [("device", ["input"]), ("a:1", ["logits"])]
    apart_s = said["server_s"] + said["forward_s"]
    assert apart_s <= said["latency_s"] * (1 + 1e-6) <= (apart_s + said["queue_s"]) * (1 + 2e-6)
    assert said["sent_bits"] > 1000
    assert said["in_time"] is True


def test_a_picture_in_bytes_is_prepared_by_the_device(stock: tuple[Any, Any]):
    module, client = stock
    result = client.infer(GRAPH.name, [tensor(module, PICTURES[0], "UINT8")])
    np.testing.assert_allclose(result.as_numpy("logits"), EXPECTED[:1], rtol=1e-4, atol=1e-5)
    assert parameters(result)["sent_bits"] < 8 * BATCH[:1].nbytes


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_the_example_in_javascript_asks_a_gateway(gateway: EdgeThread):
    command = ["node", str(ROOT / "examples" / "client.mjs"), gateway.http, GRAPH.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pixels = np.sin(np.arange(BATCH[0].size)).astype(np.float32).reshape(BATCH[:1].shape)
    expected = EXACT.run({"input": pixels}, GRAPH.outputs)[0]["logits"]
    assert f"logits [1,{expected.size}]: largest at {expected.argmax()}\n" in done.stdout
    assert re.search("answered by (a:1|device)\n", done.stdout)


def test_the_trace_of_a_client_goes_on_to_the_server(stock: tuple[Any, Any], node: Switched):
    module, client = stock
    traceparent = f"00-{7:032x}-{9:016x}-01"
    seen: list[str] = []
    node.bad = lambda: seen.append(tracing.current())
    try:
        client.infer(GRAPH.name, [tensor(module, BATCH)], headers={"traceparent": traceparent})
    finally:
        node.bad = None
    assert seen == [traceparent]


def test_health_metadata_and_counters(stock: tuple[Any, Any], gateway: EdgeThread):
    module, client = stock
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(GRAPH.name)
    found = client.get_model_metadata(GRAPH.name)
    inputs = found["inputs"] if isinstance(found, dict) else found.inputs
    assert len(inputs) == 1
    server = client.get_server_metadata()
    extensions = server["extensions"] if isinstance(server, dict) else server.extensions
    assert "coinfer_split" not in extensions, "it refuses parts of networks"
    client.infer(GRAPH.name, [tensor(module, BATCH)])
    metrics = gateway.service.metrics
    assert sum(metrics.nodes.values()) == metrics.models[GRAPH.name].success
    counts = {
        (sample.name, sample.labels["model"]): sample.value
        for family in metrics.times.collect()
        for sample in family.samples
        if sample.name.endswith("_count")
    }
    assert counts["coinfer_request_latency_seconds_count", GRAPH.name] > 0
    assert counts["coinfer_compute_seconds_count", GRAPH.name] > 0


def test_a_failing_server_is_replaced_by_the_device(stock: tuple[Any, Any], node: Switched):
    module, client = stock

    def bad() -> None:
        raise WireError("INTERNAL", "on purpose")

    node.bad = bad
    try:
        said = parameters(client.infer(GRAPH.name, [tensor(module, BATCH[:1])]))
    finally:
        node.bad = None
    assert said["executed_on"] == "device"
    assert said["fallback"].startswith("a:1: INTERNAL")


@pytest.mark.parametrize(
    ("more", "values", "said"),
    [
        ({"parameters": {"goal": "speed"}}, BATCH, "goal is 'speed'; expected one of latency, accuracy, energy"),
        ({"parameters": {"min_accuracy": 0.5}}, BATCH, "has no accuracy table here"),
        ({"parameters": {"bits": 8}}, BATCH, "a gateway answers whole networks"),
        ({"priority": 400}, BATCH, "parameter priority: expected 1"),
        ({}, BATCH[:, :1], "input 'input'"),
        ({}, PICTURES[0][None], "a picture in bytes is sent by itself, as UINT8 [height, width, channels]"),
        ({}, BATCH.astype(np.float64), "input 'input'"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(
    stock: tuple[Any, Any], more: dict[str, Any], values: np.ndarray, said: str
):
    module, client = stock
    datatype = {"f4": "FP32", "f8": "FP64", "u1": "UINT8"}[values.dtype.str[1:]]
    with pytest.raises(InferenceServerException) as caught:
        client.infer(GRAPH.name, [tensor(module, values, datatype)], **more)
    assert said in caught.value.message()
    assert "\n" not in caught.value.message()


def test_an_inner_tensor_is_for_edge_servers(stock: tuple[Any, Any]):
    module, client = stock
    with pytest.raises(InferenceServerException, match=r"expected the inputs \['input'\], got \['pool1'\]"):
        client.infer(GRAPH.name, [tensor(module, np.zeros((1, 64, 15, 15), np.float32), name="pool1")])
    with pytest.raises(InferenceServerException, match=r"expected outputs of one of \[\['logits'\]\]"):
        client.infer(GRAPH.name, [tensor(module, BATCH)], outputs=[module.InferRequestedOutput("pool1")])


def request(**more: Any) -> InferRequest:
    return InferRequest(GRAPH.name, (from_array("input", BATCH[:1]),), **more)


def test_a_full_gateway_refuses_and_a_request_that_is_given_up_frees_its_place(node: Switched):
    """Two are under way and one waits; the fourth is refused."""
    gate = threading.Event()
    node.bad, node.asked = lambda: gate.wait(60) and None, 0
    device = Device(GRAPH, CONFIG, transport=InMemoryTransport({"a:1": node}))
    device.open()

    async def play() -> tuple[WireError, list[str]]:
        service = GatewayService([device], concurrency=2, queue=1)
        tasks = []
        for under_way in (1, 2, 2):
            tasks.append(asyncio.ensure_future(service.infer(request(), unencoded)))
            while node.asked < under_way:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0)
        with pytest.raises(WireError) as refused:
            await service.infer(request(), unencoded)
        tasks[0].cancel()
        while node.asked < 3:  # the one that waited is under way
            await asyncio.sleep(0.005)
        gate.set()
        replies = await asyncio.gather(*tasks[1:])
        assert service.metrics.in_flight == 0
        service.drain()
        with pytest.raises(WireError, match="shutting down"):
            await service.infer(request(), unencoded)
        service.close()
        return refused.value, [str(reply.details.get("fallback", "")) for reply in replies]

    try:
        error, failures = asyncio.run(play())
    finally:
        gate.set()
        node.bad = None
    assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "queue_full")
    assert failures == ["", ""]


def test_a_late_server_makes_no_answer_late(node: Switched):
    """The server gets the time that is left, and the caller is told once that is over."""
    gate, left_s = threading.Event(), list[float]()
    node.bad, node.asked = lambda: gate.wait(60) and None, 0
    transport = InMemoryTransport({"a:1": node})
    send = transport.send

    def note(address: str, message: InferRequest, timeout_s: float) -> Any:
        left_s.append(message.deadline_s)
        return send(address, message, timeout_s)

    transport.send = note
    device = Device(GRAPH, replace(CONFIG, refuse_late=True), transport=transport)
    device.open()

    async def play() -> WireError:
        service = GatewayService([device])
        with pytest.raises(WireError) as late:
            await service.infer(request(deadline_s=0.5), unencoded)
        gate.set()
        service.close()
        return late.value

    try:
        error = asyncio.run(play())
    finally:
        gate.set()
        node.bad = None
    assert (error.code, error.reason) == ("DEADLINE_EXCEEDED", "expired")
    assert 0 < min(left_s[-node.asked :]) < 0.5


def test_callers_take_turns_at_a_gateway_also_behind_what_is_under_way():
    """Of four requests that wait for the device's processor three are one caller's; the other is served second."""
    queue, gate, held = ProcessorQueue(), threading.Event(), threading.Event()
    device = Device(GRAPH, replace(CONFIG, servers=()), processor_queue=queue)

    def hold() -> dict[str, np.ndarray]:
        held.set()
        assert gate.wait(60)
        return {}

    async def ask(service: GatewayService, caller: str) -> float:
        set_caller(caller)
        return (await service.infer(request(), unencoded)).queue_s

    async def play() -> list[float]:
        service, tasks = GatewayService([device]), list[asyncio.Task[float]]()
        queue.submit(hold, 0.0, None)
        assert held.wait(60)
        for caller in ("greedy", "greedy", "greedy", "modest"):
            tasks.append(asyncio.create_task(ask(service, caller)))
            while len(queue._waiting) < len(tasks):
                await asyncio.sleep(0.005)
        gate.set()
        waits_s = await asyncio.gather(*tasks)
        service.close()
        return waits_s

    device.open()
    try:
        *greedy_s, modest_s = asyncio.run(play())
    finally:
        gate.set()
        queue.close()
    assert modest_s < min(greedy_s[1:]), "it came last"


def test_each_request_may_have_its_own_objective(nothing_measured: None):
    """Computing here costs energy and sending costs none, so that the least energy is the server's."""
    slow = Switched()
    with Device(GRAPH, CONFIG, transport=InMemoryTransport({"a:1": slow})) as device:
        service = GatewayService([device])
        wanted = RequestedObjective(goal="energy", energy_j=1.0)
        reply = asyncio.run(service.infer(request(objective=wanted), unencoded))
        assert reply.details["executed_on"] == "a:1"
        assert json.loads(str(reply.details["unmet"])) == []
        assert "accuracy" not in reply.details  # it is not known
        with pytest.raises(WireError, match="the deadline") as late:
            asyncio.run(service.infer(request(deadline_s=1e-6), unencoded))
        assert late.value.code == "DEADLINE_EXCEEDED"


def test_sizes_that_do_not_fit_one_of_several_networks_are_refused_with_how_to_give_them(tmp_path: Path):
    paths = (str(tmp_path / "wide.onnx"), str(tmp_path / "long.onnx"))
    for path, axis in zip(paths, ("width", "length"), strict=True):
        ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, axis]) for name in "xy"]
        graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], axis, ends[:1], ends[1:])
        opsets = [onnx.helper.make_opsetid("", 17)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    settings = GatewaySettings(models=paths, shapes={"width": "4", "length": "8"})
    with pytest.raises(UserError, match=r"no axis or input is called .*; --shape MODEL:NAME=SIZES is for one of the"):
        run_gateway(settings)

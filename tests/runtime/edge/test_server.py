"""A real edge process against the stock clients, bad input of every kind, and signals."""

import http.client
import json
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

import grpc
import numpy as np
import onnx
import psutil
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.graph.small_graphs import model
from tests.patience import patient_transport
from tests.runtime.edge.edge_process import edge_process
from tritonclient.grpc import service_pb2 as pb

from coinfer.errors import UserError
from coinfer.graph.zoo import networks
from coinfer.runtime.codec.tensors import pack, unpack
from coinfer.runtime.edge.http_server import listen
from coinfer.runtime.edge.inference_service import PortError
from coinfer.runtime.edge.server import EdgeSettings, checked_settings, model_loader
from coinfer.runtime.executor import Executor
from coinfer.runtime.protocol import protobuf
from coinfer.runtime.protocol.messages import InferRequest, TransportError, WireTensor, from_array, to_array
from coinfer.runtime.transport.grpc_transport import PUSHBACK_TRAILER, REASON_TRAILER, SERVICE
from coinfer.types import Hop

GRAPH = networks.build("resnet32")
EXECUTOR = Executor(GRAPH)
IMAGE = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
WHOLE = EXECUTOR.run({"input": IMAGE})[0]["logits"]
LIMIT = 100_000
INPUT = from_array("input", IMAGE)


@pytest.fixture(scope="module")
def edge():
    settings = f"('resnet32',), grpc_port=0, http_port=0, echo=True, limit_bytes={LIMIT}, queue=32, peers=None"
    with edge_process(settings) as edge:
        yield edge


@pytest.fixture(scope="module")
def call(edge):
    """A raw call: method and bytes to bytes."""
    channel = grpc.insecure_channel(edge.grpc, [("grpc.max_send_message_length", -1)])
    yield lambda method, message: channel.unary_unary(f"/{SERVICE}/{method}")(message, timeout=60)
    channel.close()


@pytest.fixture(scope="module", params=["grpc", "http"])
def client(request, edge):
    """The stock client, and its module."""
    module = {"grpc": triton_grpc, "http": triton_http}[request.param]
    client = module.InferenceServerClient(getattr(edge, request.param))
    yield client, module
    client.close()


def stock_input(module, values, name="input"):
    found = module.InferInput(name, list(values.shape), "FP32")
    found.set_data_from_numpy(values)
    return found


def field(message, name):
    """A field of a reply, which one client gives as protobuf and the other as JSON."""
    return message[name] if isinstance(message, dict) else getattr(message, name)


def test_stock_clients_find_health_and_metadata(client):
    client, _ = client
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("resnet32")
    assert client.is_model_ready("resnet32", "1")
    assert client.is_model_ready("nope") is False, "no error, as of Triton"
    assert client.is_model_ready("resnet32", "2") is False
    assert field(client.get_server_metadata(), "name") == "coinfer"
    assert "coinfer_split" in field(client.get_server_metadata(), "extensions")
    metadata = client.get_model_metadata("resnet32")
    (tensor,) = field(metadata, "inputs")
    assert field(tensor, "name") == "input"
    assert [int(dim) for dim in field(tensor, "shape")] == [-1, 3, 32, 32]
    config = client.get_model_config("resnet32")
    assert field(field(config, "config") if not isinstance(config, dict) else config, "backend") == "onnxruntime"


def test_stock_clients_infer_whole_models(client):
    client, module = client
    reply = client.infer("resnet32", [stock_input(module, IMAGE)], request_id="7")
    np.testing.assert_array_equal(reply.as_numpy("logits"), WHOLE)
    assert field(reply.get_response(), "id") == "7"
    middle = GRAPH.useful_cuts()[6].tensors[0]
    wanted = [module.InferRequestedOutput(middle), module.InferRequestedOutput("logits")]
    reply = client.infer("resnet32", [stock_input(module, IMAGE[:1])], outputs=wanted)
    np.testing.assert_allclose(reply.as_numpy("logits"), WHOLE[:1], rtol=1e-4, atol=1e-5)
    assert reply.as_numpy(middle).shape == GRAPH.tensors[middle].shape
    failed = field(client.get_inference_statistics("resnet32"), "model_stats")[0]
    assert int(field(failed, "inference_count")) >= 3


def test_stock_http_client_without_binary_tensors(edge):
    with triton_http.InferenceServerClient(edge.http) as client:
        tensor = triton_http.InferInput("input", [1, 3, 32, 32], "FP32")
        tensor.set_data_from_numpy(IMAGE[:1], binary_data=False)
        wanted = [triton_http.InferRequestedOutput("logits", binary_data=False)]
        reply = client.infer("resnet32", [tensor], outputs=wanted)
    np.testing.assert_allclose(reply.as_numpy("logits"), WHOLE[:1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_stock_http_client_with_compressed_requests(edge, encoding):
    with triton_http.InferenceServerClient(edge.http) as client:
        tensor = stock_input(triton_http, IMAGE)
        reply = client.infer("resnet32", [tensor], request_compression_algorithm=encoding)
        np.testing.assert_array_equal(reply.as_numpy("logits"), WHOLE)


def test_stock_stream_goes_on_after_an_error(edge):
    answers = []
    with triton_grpc.InferenceServerClient(edge.grpc) as client:
        client.start_stream(lambda result, error: answers.append((result, error)))
        for model in ("resnet32", "nope", "resnet32"):
            client.async_stream_infer(model, [stock_input(triton_grpc, IMAGE)])
        client.stop_stream()
    assert [error is None for _, error in answers] == [True, False, True]
    assert "no model 'nope'" in str(answers[1][1])
    np.testing.assert_array_equal(answers[2][0].as_numpy("logits"), WHOLE)


def test_health_service(edge):
    with grpc.insecure_channel(edge.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE, "resnet32"):
            reply = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=60)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="nope"), timeout=60)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_every_fourth_cut_over_real_grpc(edge):
    transport = patient_transport()
    for cut in GRAPH.useful_cuts()[::4]:
        head, _ = EXECUTOR.run({"input": IMAGE[:1]}, cut.tensors)
        inputs = tuple(from_array(name, array) for name, array in head.items())
        request = InferRequest("resnet32", inputs, ("logits",), fingerprint=GRAPH.fingerprint)
        reply = transport.send(edge.grpc, request, 60.0).result(60)
        np.testing.assert_allclose(to_array(reply.outputs[0]), WHOLE[:1], rtol=1e-4, atol=1e-5)
        coded = tuple(pack(name, array, 8) for name, array in head.items())
        received = {tensor.name: unpack(tensor) for tensor in coded}
        answer = transport.send(edge.grpc, InferRequest("resnet32", coded, ("logits",)), 60.0).result(60).outputs[0]
        expected = EXECUTOR.run(received, ("logits",))[0]["logits"]
        np.testing.assert_allclose(to_array(answer), expected, rtol=1e-4, atol=1e-5)
    transport.close()


def test_a_route_over_two_processes(edge):
    cuts = GRAPH.useful_cuts()
    transport = patient_transport()
    with edge_process("('resnet32',), grpc_port=0, http_port=None") as second:
        request = InferRequest(
            "resnet32",
            (from_array("input", IMAGE[:1]),),
            cuts[7].tensors,
            fingerprint=GRAPH.fingerprint,
            bits=32,
            route=(Hop(second.grpc, ("logits",), 32),),
        )
        reply = transport.send(edge.grpc, request, 60.0).result(60)
        np.testing.assert_allclose(unpack(reply.outputs[0]), WHOLE[:1], rtol=1e-4, atol=1e-5)
        assert [hop.node for hop in reply.executed] == [edge.grpc, second.grpc]
    with pytest.raises(TransportError) as caught:
        transport.send(edge.grpc, request, 60.0).result(60)
    assert (caught.value.code, caught.value.reason) == ("UNAVAILABLE", "next_hop")
    transport.close()


def changed(change):
    """A good request as protobuf, spoilt."""
    proto = pb.ModelInferRequest.FromString(protobuf.request_bytes(InferRequest("resnet32", (INPUT,))))
    change(proto)
    return proto.SerializeToString()


def parameter(name, kind, value):
    return lambda proto: setattr(proto.parameters[name], kind, value)


def codec_payload(spoil):
    payload = bytearray(pack("input", IMAGE, 8).data)
    spoil(payload)
    tensor = WireTensor("input", "UINT8", (len(payload),), bytes(payload), codec=True)
    return protobuf.request_bytes(InferRequest("resnet32", (tensor,)))


def flip(payload):
    payload[len(payload) // 2] ^= 1


def both_contents(proto):
    proto.inputs[0].contents.fp32_contents.append(1.0)


def twice(proto):
    proto.inputs.add().CopyFrom(proto.inputs[0])
    proto.raw_input_contents.append(proto.raw_input_contents[0])


def other_shape(*shape):
    return lambda proto: proto.inputs[0].shape.__setitem__(slice(None), shape)


BAD = {
    "random bytes": (b"\xff\xfe\xfd", "INVALID_ARGUMENT"),
    "empty": (b"", "NOT_FOUND"),
    "cut off": (changed(lambda p: None)[:-5], "INVALID_ARGUMENT"),
    "unknown model": (changed(lambda p: setattr(p, "model_name", "nope")), "NOT_FOUND"),
    "traversal": (changed(lambda p: setattr(p, "model_name", "../../etc/passwd")), "NOT_FOUND"),
    "unknown version": (changed(lambda p: setattr(p, "model_version", "9")), "NOT_FOUND"),
    "unknown tensor": (changed(lambda p: setattr(p.inputs[0], "name", "nope")), "INVALID_ARGUMENT"),
    "unknown output": (changed(lambda p: p.outputs.add(name="nope")), "INVALID_ARGUMENT"),
    "wrong dtype": (changed(lambda p: setattr(p.inputs[0], "datatype", "INT32")), "INVALID_ARGUMENT"),
    "unknown dtype": (changed(lambda p: setattr(p.inputs[0], "datatype", "FP7")), "INVALID_ARGUMENT"),
    "wrong shape": (changed(other_shape(2, 3, 32, 31)), "INVALID_ARGUMENT"),
    "wrong rank": (changed(other_shape(6144)), "INVALID_ARGUMENT"),
    "negative dim": (changed(other_shape(-2, -3, 32, 32)), "INVALID_ARGUMENT"),
    "zero dim": (changed(other_shape(0, 3, 32, 32)), "INVALID_ARGUMENT"),
    "dims over 2^63": (changed(other_shape(2**62, 2**62, 32, 32)), "INVALID_ARGUMENT"),
    "missing input": (changed(lambda p: (p.inputs.pop(), p.raw_input_contents.pop())), "INVALID_ARGUMENT"),
    "tensor twice": (changed(twice), "INVALID_ARGUMENT"),
    "raw and typed": (changed(both_contents), "INVALID_ARGUMENT"),
    "one byte short": (
        changed(lambda p: p.raw_input_contents.append(p.raw_input_contents.pop()[:-1])),
        "INVALID_ARGUMENT",
    ),
    "negative deadline": (changed(parameter("deadline_s", "double_param", -1.0)), "INVALID_ARGUMENT"),
    "deadline NaN": (changed(parameter("deadline_s", "double_param", float("nan"))), "INVALID_ARGUMENT"),
    "hopeless deadline": (changed(parameter("deadline_s", "double_param", 1e-9)), "DEADLINE_EXCEEDED"),
    "bad route": (changed(parameter("route", "string_param", "somewhere")), "INVALID_ARGUMENT"),
    "bad bits": (changed(parameter("bits", "int64_param", 3)), "INVALID_ARGUMENT"),
    "other network": (changed(parameter("fingerprint", "string_param", "ab" * 32)), "FAILED_PRECONDITION"),
    "shared memory": (
        changed(lambda p: setattr(p.inputs[0].parameters["shared_memory_region"], "string_param", "r")),
        "UNIMPLEMENTED",
    ),
    "payload flipped": (codec_payload(flip), "INVALID_ARGUMENT"),
    "payload cut off": (codec_payload(lambda p: p.__delitem__(slice(-9, None))), "INVALID_ARGUMENT"),
    "payload is no payload": (codec_payload(lambda p: p.__setitem__(slice(0, 8), b"PNG12345")), "INVALID_ARGUMENT"),
    "bomb": (
        protobuf.request_bytes(
            InferRequest("resnet32", (pack("input", np.zeros((16, 3, 32, 32), np.float32), 4, 1e3),))
        ),
        "RESOURCE_EXHAUSTED",
    ),
    "too large": (changed(lambda p: p.raw_input_contents.append(bytes(LIMIT))), "RESOURCE_EXHAUSTED"),
    "far too large": (bytes(3 * 1024 * 1024), "RESOURCE_EXHAUSTED"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_over_grpc(call, case):
    message, code = BAD[case]
    with pytest.raises(grpc.RpcError) as caught:
        call("ModelInfer", message)
    error = caught.value
    assert error.code().name == code
    assert "\n" not in error.details()
    assert "Traceback" not in error.details()
    trailers = dict(error.trailing_metadata())
    if code == "RESOURCE_EXHAUSTED" and case != "far too large":
        assert (trailers[REASON_TRAILER], trailers[PUSHBACK_TRAILER]) == ("too_large", "-1")
    good = protobuf.parse_reply(call("ModelInfer", protobuf.request_bytes(InferRequest("resnet32", (INPUT,)))))
    np.testing.assert_array_equal(to_array(good.outputs[0]), WHOLE)


def test_the_limit_is_exact_on_the_wire(call):
    message = protobuf.request_bytes(InferRequest("resnet32", (INPUT,)))
    assert protobuf.parse_reply(call("ModelInfer", sized_unknown_field(message, LIMIT))).model == "resnet32"
    with pytest.raises(grpc.RpcError) as caught:
        call("ModelInfer", sized_unknown_field(message, LIMIT + 1))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def sized_unknown_field(message, size_bytes):
    """The message grown to an exact size by a field that the protocol does not know."""
    body = size_bytes - len(message) - 5
    return message + b"\x82\x7d" + bytes([body & 0x7F | 0x80, body >> 7 & 0x7F | 0x80, body >> 14]) + bytes(body)


def test_unknown_methods_and_garbage_for_other_methods(call):
    with pytest.raises(grpc.RpcError) as caught:
        call("Nope", b"")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    for method in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"):
        with pytest.raises(grpc.RpcError) as caught:
            call(method, b"\xff\xff\xff")
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as caught:
        call("ModelMetadata", pb.ModelMetadataRequest(name="nope").SerializeToString())
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def post(edge, path, body, **headers):
    """Status and JSON of an HTTP request."""
    request = urllib.request.Request(
        f"http://{edge.http}{path}", body, headers, method="POST" if body is not None else "GET"
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def body(**change):
    entry = {"name": "input", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": [0.5] * 3072}
    parameters = change.pop("parameters", {})
    return json.dumps({"inputs": [entry | change], "parameters": parameters}).encode()


INFER = "/v2/models/resnet32/infer"
BAD_HTTP = {
    "not JSON": (INFER, b"{", 400),
    "unknown model": ("/v2/models/nope/infer", body(), 404),
    "traversal": ("/v2/models/..%2F..%2Fetc/infer", body(), 404),
    "unknown version": ("/v2/models/resnet32/versions/9/infer", body(), 404),
    "unknown path": ("/v3/models", body(), 404),
    "wrong method": ("/v2/models/resnet32", body(), 405),
    "unknown tensor": (INFER, body(name="nope"), 400),
    "wrong dtype": (INFER, body(datatype="INT32", data=[1] * 3072), 400),
    "wrong shape": (INFER, body(shape=[1, 3, 64, 16]), 400),
    "wrong count": (INFER, body(data=[0.5] * 3071), 400),
    "negative deadline": (INFER, body(parameters={"deadline_s": -1}), 400),
    "hopeless deadline": (INFER, body(parameters={"deadline_s": 1e-9}), 504),
    "bad route": (INFER, body(parameters={"route": "[1]"}), 400),
    "bad bits": (INFER, body(parameters={"bits": 7}), 400),
    "other network": (INFER, body(parameters={"fingerprint": "ab"}), 409),
}


@pytest.mark.parametrize("case", BAD_HTTP)
def test_bad_input_over_http(edge, case):
    path, content, status = BAD_HTTP[case]
    got, said = post(edge, path, content)
    assert got == status
    assert "\n" not in said["error"]
    assert said["error"]
    assert post(edge, INFER, body())[0] == 200


def test_too_large_a_body_is_refused_before_it_is_sent(edge):
    connection = http.client.HTTPConnection(edge.http, timeout=60)
    connection.putrequest("POST", INFER)
    connection.putheader("Content-Length", str(LIMIT + 1))
    connection.endheaders()
    reply = connection.getresponse()
    assert reply.status == 413
    assert json.loads(reply.read())["reason"] == "too_large"
    connection.close()
    assert post(edge, INFER, body())[0] == 200


def test_bad_http_headers(edge):
    assert post(edge, INFER, body(), **{"Inference-Header-Content-Length": "-5"})[0] == 400
    assert post(edge, INFER, body(), **{"Inference-Header-Content-Length": "9999999"})[0] == 400
    assert post(edge, INFER, body(), **{"Content-Encoding": "br"})[0] == 501


def test_metrics_add_up(edge):
    assert post(edge, INFER, body())[0] == 200
    with urllib.request.urlopen(f"http://{edge.http}/metrics", timeout=60) as reply:
        text = reply.read().decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    total = lambda name: sum(float(v) for k, v in values.items() if k.startswith(name + "{"))  # noqa: E731
    answered = total("nv_inference_request_success") + total("nv_inference_request_failure")
    assert total("coinfer_requests_received_total") == answered + total("nv_inference_pending_request_count") > 0
    jobs = {k.split('"')[1]: float(v) for k, v in values.items() if k.startswith("coinfer_jobs_total")}
    assert jobs["received"] == jobs["finished"] + jobs["failed"] + jobs["refused"] + jobs["cancelled"]
    assert float(values["process_resident_memory_bytes"]) > 0


def test_thousands_of_bad_requests_leave_no_memory_behind(edge, call):
    """What leaks grows with every thousand of them; what allocators and new threads take ends after some thousands."""
    process = psutil.Process(edge.process.pid)
    bad = [message for case, (message, _) in BAD.items() if "large" not in case]
    grown = []
    for _ in range(20):
        before = process.memory_info().rss
        for i in range(1000):
            with pytest.raises(grpc.RpcError):
                call("ModelInfer", bad[i % len(bad)])
        grown.append(process.memory_info().rss - before)
        typical = statistics.median(grown[-3:])
        if len(grown) > 3 and typical < 512 * 1024:
            break
    print(f"RSS grew {[size_bytes // 1000 for size_bytes in grown]} bytes per bad request")
    assert typical < 512 * 1024
    assert process.num_threads() < 40


def test_sigterm_finishes_what_was_admitted_and_refuses_the_rest():
    settings = "('resnet32',), grpc_port=0, http_port=0, slowdown=40.0, queue=30"
    with edge_process(settings) as edge:
        transport = patient_transport()
        futures = [transport.send(edge.grpc, InferRequest("resnet32", (INPUT,)), 60.0) for _ in range(12)]
        done = 0
        while transport.ping(edge.grpc, 60.0).result(60).load.room > 31 - 12 + done:
            time.sleep(0.005)
            done = sum(future.done() for future in futures)  # before the ping: what is done later counts as not yet
        edge.process.send_signal(signal.SIGTERM)
        late = transport.send(edge.grpc, InferRequest("resnet32", (INPUT,)), 60.0)
        for future in futures:
            np.testing.assert_array_equal(to_array(future.result(60).outputs[0]), WHOLE)
        try:
            np.testing.assert_array_equal(to_array(late.result(60).outputs[0]), WHOLE)
        except TransportError as error:
            assert error.code == "UNAVAILABLE"  # noqa: PT017
        assert edge.process.wait(60) == 0
        with pytest.raises(TransportError):
            transport.ping(edge.grpc, 1.0).result(60)
        transport.close()


def _ping_until_refused(transport, edge):
    while True:
        transport.ping(edge.grpc, 60.0).result(60)


def test_a_second_signal_ends_it_at_once():
    with edge_process("('resnet32',), grpc_port=0, http_port=None, slowdown=3000.0, queue=8") as edge:
        transport = patient_transport()
        futures = [transport.send(edge.grpc, InferRequest("resnet32", (INPUT,)), 120.0) for _ in range(9)]
        while transport.ping(edge.grpc, 60.0).result(60).load.room > 0:
            time.sleep(0.005)
        edge.process.send_signal(signal.SIGTERM)
        with pytest.raises(TransportError, match="UNAVAILABLE"):
            _ping_until_refused(transport, edge)
        edge.process.send_signal(signal.SIGTERM)
        # They arrive in any order, and the first may just be done; the rest is more than half a minute of work.
        assert sum(future.exception(60) is None for future in futures) <= 1
        assert edge.process.wait(60) == 1
        transport.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"grpc_port": 70_000}, "grpc port 70000 is not between 0 and 65535"),
        ({"workers": 0}, "workers 0 is less than 1"),
        ({"queue": -1}, "queue -1 is less than 0"),
        ({"models": ()}, "no model to serve"),
        ({"grace_s": -1.0}, "grace_s -1.0 is less than 0"),
        ({"slowdown": 0.1}, "slowdown 0.1 is not a number from 1 up"),
        ({"host": "[::1"}, "host .* is no IPv6 address"),
        ({"peers": ("a",)}, "peer 'a': it has no port"),
    ],
)
def test_wrong_settings_are_refused(change, words):
    settings = EdgeSettings(**({"models": ("resnet32",)} | change))
    with pytest.raises(UserError, match=words):
        checked_settings(settings)


@pytest.mark.parametrize(("host", "shown", "clients"), [
    ("::1", "[::1]", ["[::1]"]),
    ("[0:0::1]", "[::1]", ["[::1]"]),
    ("::", "[::]", ["[::1]", "127.0.0.1"]),
    ("0.0.0.0", "0.0.0.0", ["127.0.0.1"]),
])  # fmt: skip
def test_both_protocols_listen_on_any_writing_of_a_host(host, shown, clients):
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with edge_process(f"(), host={host!r}, grpc_port=0, http_port=0, echo=True") as edge:
        assert [address.rpartition(":")[0] for address in (edge.grpc, edge.http)] == [shown] * 2
        for client in clients:
            grpc_client, http_client = (f"{client}:{address.rpartition(':')[2]}" for address in (edge.grpc, edge.http))
            with triton_grpc.InferenceServerClient(grpc_client) as stock:
                assert stock.is_server_ready()
            with urllib.request.urlopen(f"http://{http_client}/v2/health/ready", timeout=60) as reply:
                assert reply.status == 200


def test_what_a_host_name_stands_for_is_listened_on(monkeypatch):
    found = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
    sockets = listen("edge.local", 0)
    assert [one.getsockname()[0] for one in sockets] == ["127.0.0.1", "127.0.0.2"]
    assert len({one.getsockname()[1] for one in sockets}) == 1
    found[:] = found[1:]
    with pytest.raises(PortError, match=r"cannot listen on edge.local:.*: no such address here, or taken"):
        listen("edge.local", sockets[0].getsockname()[1])
    for one in sockets:
        one.close()


def test_a_network_that_takes_no_zeros_is_served_all_the_same(tmp_path):
    make = onnx.helper.make_tensor_value_info
    nodes = [
        onnx.helper.make_node("Sub", ["x", "five"], ["row"]),
        onnx.helper.make_node("Gather", ["table", "row"], ["y"]),
    ]
    weights = {"five": np.array(5), "table": np.arange(3, dtype=np.float32)}
    values = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    ends = [make("x", onnx.TensorProto.INT64, [1])], [make("y", onnx.TensorProto.FLOAT, [1])]
    path = tmp_path / "rows.onnx"
    opsets = [onnx.helper.make_opsetid("", 17)]
    graph = onnx.helper.make_graph(nodes, "rows", *ends, values)
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    (served,) = model_loader(EdgeSettings(models=(str(path),))).load_all()
    assert served.runs.run({"x": np.array([7])})[0]["y"].tolist() == [2.0]


def test_sizes_of_several_networks_are_given_to_one_by_its_name(tmp_path):
    wide = model([onnx.helper.make_node("Relu", ["x"], ["y"])], {"x": [1, "width"]}, ["y"])
    long = model([onnx.helper.make_node("Relu", ["x"], ["y"])], {"x": [1, "length"]}, ["y"])
    paths = (str(tmp_path / "wide.onnx"), str(tmp_path / "long.onnx"))
    for path, proto in zip(paths, (wide, long), strict=True):
        onnx.save(proto, path)
    with pytest.raises(UserError, match=r"no axis or input is called .*; --shape MODEL:NAME=SIZES is for one of the"):
        model_loader(EdgeSettings(models=paths, shapes={"width": "4", "length": "8"})).load_all()
    served = model_loader(EdgeSettings(models=paths, shapes={"wide:width": "4", "long:length": "8"})).load_all()
    assert [one.name for one in served] == ["wide", "long"]


NO_ANNOUNCEMENT = """
import sys, threading, types

class Zeroconf:
    def __init__(self):
        self.closed = threading.Event()
        threading.Thread(target=self.closed.wait).start()  # the process cannot end before it does

    def register_service(self, info):
        raise OSError(19, "No such device")

    def close(self):
        self.closed.set()

sys.modules["zeroconf"] = types.SimpleNamespace(Zeroconf=Zeroconf, ServiceInfo=lambda *_, **__: None)
sys.argv = ["coinfer", "edge", "resnet32", "--announce", "--grpc-port", "0", "--http-port", "0"]
from coinfer.cli.main import main
main()
"""


def test_what_fails_once_the_ports_are_open_ends_the_process_with_one_line():
    done = subprocess.run([sys.executable, "-c", NO_ANNOUNCEMENT], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (2, "")
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: this server cannot be announced in the local network (OSError: [Errno 19]")
    assert "Traceback" not in done.stderr

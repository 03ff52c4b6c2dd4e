"""What the load generator asks: a device in its own process, or a gateway or an edge server over gRPC or REST."""

import contextlib
import http.client
import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from fault_kinds.load import ANSWERED, Answer, Ask

from coinfer.graph.open_model import open_model
from coinfer.runtime.device.admission import RefusedError
from coinfer.runtime.device.device import Device
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import load_images, preprocess
from coinfer.runtime.protocol import protobuf
from coinfer.runtime.protocol.messages import InferRequest, from_array, to_array
from coinfer.runtime.protocol.protobuf_types import INFER_REPLY
from coinfer.runtime.transport.grpc_transport import REASON_TRAILER, SERVICE, client_options

MODEL = "alexnet-cifar"
PATIENCE_S = 60.0
GRAPH = open_model(MODEL)
assert GRAPH.image is not None
PICTURES = [picture for _, picture in load_images()]
INPUTS = [preprocess(picture, GRAPH.image) for picture in PICTURES]


def exact() -> list[np.ndarray]:
    """Return the right answer of each picture."""
    executor = Executor(GRAPH)
    return [executor.run({GRAPH.inputs[0]: tensor})[0][GRAPH.outputs[0]] for tensor in INPUTS]


class Checked:
    """Turns outputs into answers; a wrong one is `wrong`."""

    def __init__(self) -> None:
        self._exact = exact()

    def answer(self, request: int, output: np.ndarray, node: str, fallback: str = "", queue_s: float = 0.0) -> Answer:
        right = self._exact[request % len(self._exact)]
        close = output.size == right.size and np.abs(output.ravel() - right.ravel()).max() <= 1e-3 * np.abs(right).max()
        return Answer(ANSWERED if close else "wrong", node, fallback, queue_s)


@contextlib.contextmanager
def device(servers: Sequence[str], slowdown: float, **settings: Any) -> Iterator[tuple[Ask, Device]]:
    """Yield what asks a device in this process, and the device."""
    checked = Checked()
    with Device(GRAPH, servers=servers, slowdown=slowdown, bits=(32,), **settings) as opened:

        def ask(request: int, deadline_s: float) -> Answer:
            try:
                result = opened.infer(PICTURES[request % len(PICTURES)], deadline_s=deadline_s)
            except RefusedError as refused:
                return Answer(refused.reason)
            except Exception as error:  # whatever it is, the caller has no answer
                return Answer(type(error).__name__)
            return checked.answer(request, result.output, result.executed_on, result.fallback)

        yield ask, opened


@contextlib.contextmanager
def over_grpc(address: str) -> Iterator[Ask]:
    """Yield what asks a gateway or an edge server over gRPC."""
    checked, channel = Checked(), grpc.insecure_channel(address, client_options(patience_s=PATIENCE_S))
    call = channel.unary_unary(f"/{SERVICE}/ModelInfer")

    def ask(request: int, deadline_s: float) -> Answer:
        tensor = from_array(GRAPH.inputs[0], INPUTS[request % len(INPUTS)])
        message = InferRequest(MODEL, (tensor,), GRAPH.outputs, deadline_s=deadline_s)
        try:
            received = call(protobuf.request_bytes(message), timeout=PATIENCE_S)
        except grpc.RpcError as error:
            reason = dict(error.trailing_metadata() or ()).get(REASON_TRAILER)
            return Answer(reason or error.code().name, details=error.details() or "")
        reply = protobuf.parse_reply(received)
        node = reply.executed[-1].node if reply.executed else ""
        fallback = INFER_REPLY.FromString(received).parameters["fallback"].string_param
        return checked.answer(request, to_array(reply.outputs[0]), node, fallback, reply.queue_s)

    yield ask
    channel.close()


@contextlib.contextmanager
def over_http(address: str) -> Iterator[Ask]:
    """Yield what asks a gateway or an edge server over REST; each thread of the caller keeps a connection."""
    checked, own = Checked(), threading.local()

    def ask(request: int, deadline_s: float) -> Answer:
        head, data = http_body(request, deadline_s)
        headers = {"Inference-Header-Content-Length": str(len(head))}
        try:
            if not hasattr(own, "connection"):
                own.connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
            own.connection.request("POST", f"/v2/models/{MODEL}/infer", head + data, headers)
            response = own.connection.getresponse()
            said = json.loads(response.read())
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            # an idle connection that the server has closed; it is opened again, as by any client
            own.connection.close()
            return ask(request, deadline_s)
        except (http.client.HTTPException, OSError, ValueError) as error:
            own.connection.close()
            return Answer(type(error).__name__)
        if response.status != 200:
            return Answer(said.get("reason") or said.get("code") or str(response.status))
        details: Mapping[str, Any] = said.get("parameters", {})
        executed = json.loads(details.get("executed", "[]"))
        node = executed[-1]["node"] if executed else ""
        output = np.array(said["outputs"][0]["data"], np.float32)
        queue_s = float(details.get("queue_s", 0.0))
        return checked.answer(request, output, node, str(details.get("fallback", "")), queue_s)

    yield ask


CLIENTS = {"grpc": over_grpc, "http": over_http}


def http_body(request: int, deadline_s: float = math.inf) -> tuple[bytes, bytes]:
    """Return the JSON head and the tensor's bytes of a REST request."""
    data = INPUTS[request % len(INPUTS)]
    size = {"binary_data_size": data.nbytes}
    entry = {"name": GRAPH.inputs[0], "datatype": "FP32", "shape": data.shape, "parameters": size}
    parameters = {} if deadline_s == math.inf else {"deadline_s": deadline_s}
    head = {"inputs": [entry], "outputs": [{"name": GRAPH.outputs[0]}], "parameters": parameters}
    return json.dumps(head).encode(), data.tobytes()

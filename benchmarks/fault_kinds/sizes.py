"""Messages at the limit of their size, and small ones that unpack to something huge.

An edge server with a limit of its own answers a message of exactly the limit, and refuses one byte more, in both
protocols. Bombs are gzip over gRPC and REST and payloads of the codec; each unpacks to 16 times the limit. They must be
refused as too large. Goals: exact to the byte; memory never grows by more than twice the limit for each worker; at most
50 ms of the server's processor for each of 1,000 bombs.
"""

import argparse
import contextlib
import gzip
import http.client
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import psutil
from fault_kinds.nodes import Node, nodes
from tritonclient.grpc import service_pb2 as pb

from coinfer.runtime.codec.tensors import pack
from coinfer.runtime.protocol import protobuf
from coinfer.runtime.protocol.messages import InferRequest
from coinfer.runtime.transport.grpc_transport import SERVICE, client_options
from coinfer.units import MIB, MILLI

LIMIT_MIB, QUICK_LIMIT_MIB = 4, 1
BOMB = 16
"""Times the limit, unpacked."""
SAMPLE_S = 0.01
PATIENCE_S = 120.0
PATH = "/v2/models/echo/infer"


def grpc_message(size: int) -> bytes:
    """Return a request for the size of a tensor, in exactly so many bytes."""
    elements = (size - 200) // 4
    proto = pb.ModelInferRequest(model_name="echo", raw_input_contents=[bytes(4 * elements)])
    proto.inputs.add(name="x", datatype="FP32", shape=[elements])
    proto.outputs.add().name = "elements"
    proto.id = "-"
    proto.id = "-" * (size - proto.ByteSize() + 1)
    while proto.ByteSize() != size:  # the length of the id takes bytes of its own
        proto.id = "-" * (len(proto.id) + size - proto.ByteSize())
    return proto.SerializeToString()


def http_message(size: int) -> tuple[dict[str, str], bytes]:
    """Return headers and a body of exactly so many bytes that ask the same."""
    elements = (size - 400) // 4
    sized = {"name": "x", "datatype": "FP32", "shape": [elements], "parameters": {"binary_data_size": 4 * elements}}
    head = json.dumps({"inputs": [sized], "outputs": [{"name": "elements"}]}).encode().ljust(size - 4 * elements)
    return {"Inference-Header-Content-Length": str(len(head))}, head + bytes(4 * elements)


def codec_bomb(size: int) -> bytes:
    """Return a request with a payload of the codec that decodes to so many bytes."""
    tensor = pack("x", np.zeros(size // 4, np.float32), 32, rate_bps=1.0)
    return protobuf.request_bytes(InferRequest("echo", (tensor,), ("elements",)))


@contextlib.contextmanager
def grpc_call(node: Node, compression: grpc.Compression = grpc.Compression.NoCompression) -> Iterator[Any]:
    """Yield what sends a message and returns the code of its answer."""
    options = client_options(2 * BOMB * LIMIT_MIB * MIB, patience_s=PATIENCE_S)
    with grpc.insecure_channel(node.grpc, options) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")

        def ask(message: bytes) -> str:
            error: Any = call.future(message, timeout=PATIENCE_S, compression=compression).exception()
            return "OK" if error is None else str(error.code().name)

        yield ask


def post(node: Node, headers: dict[str, str], body: bytes) -> str:
    """Return the code of the answer, which may come before all is sent."""
    connection = http.client.HTTPConnection(node.http, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", PATH, body, headers)
        try:
            reply = connection.getresponse()
            said = json.loads(reply.read())
        except (http.client.HTTPException, OSError):
            return "closed"
        return "OK" if reply.status == 200 else str(said.get("code", reply.status))


class Watched:
    """Watches a node's memory while something is done to it.

    Args:
        node: the node.
    """

    def __init__(self, node: Node):
        self._node, self._process = node, psutil.Process(node.process.pid)
        self._rss, self._cpu_s = node.rss_bytes(), self._busy_s()
        self._most, self._over = self._rss, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self, count: int) -> dict[str, float]:
        """Return what has grown, and the processor's time for each of so many requests."""
        self._over.set()
        self._thread.join()
        cpu_ms = (self._busy_s() - self._cpu_s) / count / MILLI
        return {"most_rss_growth_mib": round((self._most - self._rss) / MIB, 2), "processor_ms": round(cpu_ms, 2)}

    def _busy_s(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self._most = max(self._most, self._node.rss_bytes())


def edges(node: Node, limit: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Return what messages of the limit and next to it are told."""
    found: dict[str, dict[str, Any]] = {}
    for off in (-1, 0, 1):
        message, (headers, body) = grpc_message(limit + off), http_message(limit + off)
        watched, codes = Watched(node), {"grpc": Counter[str](), "http": Counter[str]()}
        with grpc_call(node) as ask:
            for _ in range(rounds):
                codes["grpc"][ask(message)] += 1
                codes["http"][post(node, headers, body)] += 1
        found[f"limit {off:+d}"] = {name: dict(told) for name, told in codes.items()} | watched.stop(2 * rounds)
    return found


def bombs(node: Node, limit: int, count: int) -> dict[str, dict[str, Any]]:
    """Return what bombs are told, and what they cost the node."""
    size = BOMB * limit
    plain, payload = grpc_message(size), codec_bomb(size)
    headers, body = http_message(size)
    packed, headers = gzip.compress(body, 6), headers | {"Content-Encoding": "gzip"}
    found: dict[str, dict[str, Any]] = {}
    with grpc_call(node, grpc.Compression.Gzip) as gzipped, grpc_call(node) as ask:
        kinds: dict[str, Callable[[], str]] = {
            "gzip, grpc": lambda: gzipped(plain),
            "gzip, http": lambda: post(node, headers, packed),
            "codec": lambda: ask(payload),
        }
        for name, send in kinds.items():
            send()
            watched, codes = Watched(node), Counter[str]()
            for _ in range(count):
                codes[send()] += 1
            found[name] = {"codes": dict(codes)} | watched.stop(count)
            print(f"{name}: {found[name]}", flush=True)
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what this kind alone takes."""
    parser.add_argument("--bombs", type=int, default=1000, help="of each kind")


def run(settings: argparse.Namespace) -> dict[str, Any]:
    """Return what sizes at the limit and bombs do to an edge server."""
    limit_mib = QUICK_LIMIT_MIB if settings.quick else LIMIT_MIB
    with nodes([["edge", "--echo", "--limit-mib", str(limit_mib)]]) as (edge,):
        limit = limit_mib * MIB
        found: dict[str, Any] = {"limit_mib": limit_mib, "edges": edges(edge, limit, 2 if settings.quick else 20)}
        print(found, flush=True)
        found["bombs"] = bombs(edge, limit, 2 if settings.quick else settings.bombs)
        problems = edge.problems()
        if problems:
            print(edge.log()[-4000:], flush=True)
        return found | {"logged_errors": problems, "alive": edge.process.poll() is None}

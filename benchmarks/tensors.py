"""Measure tensors to an edge server and back over loopback, and raw TCP, bare gRPC and bare uvicorn in the same run.

    python benchmarks/tensors.py

The servers are processes of their own. Calls alternate, so that all see the same machine; ratios are of the same round.
Tensors sent as 8 bits are coded and decoded at both ends by coinfer and by bare gRPC; raw TCP only carries the bytes.
Over REST, tensors are bytes after the JSON. Writes benchmarks/results/tensors.json.
"""

import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import grpc
import harness
import numpy as np

from coinfer.runtime.codec import codec
from coinfer.runtime.codec.tensors import pack, unpack
from coinfer.runtime.edge.served_model import ECHO
from coinfer.runtime.malloc import keep_freed_memory
from coinfer.runtime.protocol.messages import InferRequest, from_array, to_array
from coinfer.runtime.transport.grpc_transport import GrpcTransport, client_options
from coinfer.units import MILLI

BARS_MS = {"0.6 MB there and back": 2.0, "3.2 MB sent as 8 bits": 3.0}
RATIO_BARS = {"bare gRPC": 1.25, "bare uvicorn": 1.5}
LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
EDGE = """
from coinfer.runtime.edge.server import EdgeSettings, run_edge
run_edge(EdgeSettings((), grpc_port=0, http_port=0, echo=True))
"""
BARE = """
import asyncio, grpc
from coinfer.runtime.codec import codec
from coinfer.runtime.malloc import keep_freed_memory
keep_freed_memory()
class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        async def echo(message, context):
            if details.method == "/bare/echo":
                return message
            array = codec.decode(message)
            return message[:8] if details.method == "/bare/decode" else codec.encode(array, 8)
        return grpc.unary_unary_rpc_method_handler(echo)
async def main():
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers((Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready grpc=127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()
asyncio.run(main())
"""
UVICORN = """
import uvicorn
from coinfer.runtime.edge.http_server import listen
from coinfer.runtime.malloc import keep_freed_memory
keep_freed_memory()
async def echo(scope, receive, send):
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message["body"])
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"".join(parts)})
(server,) = listen("127.0.0.1", 0)
print(f"ready grpc=127.0.0.1:{server.getsockname()[1]}", flush=True)
config = uvicorn.Config(echo, http="h11", lifespan="off", log_level="warning")
uvicorn.Server(config).run([server])
"""
TCP = """
import socket
server = socket.create_server(("127.0.0.1", 0))
print(f"ready grpc=127.0.0.1:{server.getsockname()[1]}", flush=True)
peer, _ = server.accept()
peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
buffer = memoryview(bytearray(16 << 20))
def exactly(n):
    got = 0
    while got < n:
        k = peer.recv_into(buffer[got:n])
        if not k: raise SystemExit
        got += k
while True:
    exactly(16)
    size, back = int.from_bytes(buffer[:8], "little"), int.from_bytes(buffer[8:16], "little")
    exactly(size)
    peer.sendall(buffer[:back])
"""


def start(program: str, whole_line: bool = False) -> tuple[subprocess.Popen[str], str]:
    """Start a server and return it with its gRPC address, which it prints, or with the whole line."""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    return process, line if whole_line else line.split("grpc=")[1].split()[0]


class RawTcp:
    """A connection that sends bytes and waits for the answer."""

    def __init__(self, address: str):
        host, port = address.split(":")
        self._peer = socket.create_connection((host, int(port)))
        self._peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(bytearray(16 << 20))

    def call(self, message: Any, back: int) -> memoryview:
        self._peer.sendall(len(message).to_bytes(8, "little") + back.to_bytes(8, "little"))
        self._peer.sendall(message)
        got = 0
        while got < back:
            got += self._peer.recv_into(self._buffer[got:back])
        return self._buffer[:back]


class Rest:
    """A kept connection that posts bytes; one that its server has closed as idle is opened anew."""

    def __init__(self, address: str, path: str):
        self._peer, self._path = http.client.HTTPConnection(address), path

    def call(self, body: bytes, **headers: str) -> bytes:
        try:
            return self._post(body, headers)
        except (ConnectionError, http.client.HTTPException):
            self._peer.close()
            return self._post(body, headers)

    def _post(self, body: bytes, headers: dict[str, str]) -> bytes:
        self._peer.request("POST", self._path, body, headers)
        return self._peer.getresponse().read()


def rest_calls(edge: str, bare: str, array: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Return the timed calls over REST."""
    coinfer, uvicorn = Rest(edge, f"/v2/models/{ECHO}/infer"), Rest(bare, "/")

    def ask() -> np.ndarray:
        size = {"binary_data_size": array.nbytes}
        tensor = {"name": "x", "datatype": "FP32", "shape": list(array.shape), "parameters": size}
        wanted = {"name": "y", "parameters": {"binary_data": True}}
        head = json.dumps({"inputs": [tensor], "outputs": [wanted]}).encode()
        reply = coinfer.call(head + array.tobytes(), **{"Inference-Header-Content-Length": str(len(head))})
        return np.frombuffer(reply[-array.nbytes :], np.float32)

    assert np.array_equal(ask(), array)
    return {"coinfer": ask, "bare uvicorn": lambda: np.frombuffer(uvicorn.call(array.tobytes()), np.float32)}


def cases(edge: str, bare: str, uvicorn: str, tcp: str) -> dict[str, dict[str, Callable[[], Any]]]:
    """Return the timed calls, by case and way."""
    random = np.random.default_rng(0)
    small = random.standard_normal(150_528, dtype=np.float32)
    large = np.maximum(random.standard_normal((1, 64, 112, 112), dtype=np.float32), 0)
    transport = GrpcTransport(options=client_options(patience_s=60.0))
    channel = grpc.insecure_channel(bare, LIMIT)
    echo, decode, recode = (channel.unary_unary(f"/bare/{name}") for name in ("echo", "decode", "recode"))
    raw, edge_http = RawTcp(tcp), edge.split("http=")[1]
    edge = edge.split()[0]

    def ask(x: Any, outputs: tuple[str, ...], bits: int | None = None) -> Any:
        return transport.send(edge, InferRequest(ECHO, (x,), outputs, bits=bits), 60.0).result().outputs[0]

    def coinfer_sends() -> None:
        assert to_array(ask(pack("x", large, 8), ("elements",)))[0] == large.size

    return {
        "0.6 MB there and back": {
            "coinfer": lambda: to_array(ask(from_array("x", small), ("y",))),
            "bare gRPC": lambda: np.frombuffer(echo(small.tobytes()), np.float32),
            "raw TCP": lambda: np.frombuffer(raw.call(small.data.cast("B"), small.nbytes), np.float32),
        },
        "3.2 MB sent as 8 bits": {
            "coinfer": coinfer_sends,
            "bare gRPC": lambda: decode(codec.encode(large, 8)),
            "raw TCP": lambda: raw.call(codec.encode(large, 8), 8),
        },
        "3.2 MB there and back as 8 bits": {
            "coinfer": lambda: unpack(ask(pack("x", large, 8), ("y",), 8)),
            "bare gRPC": lambda: codec.decode(recode(codec.encode(large, 8))),
            "raw TCP": lambda: codec.decode(raw.call(p := codec.encode(large, 8), len(p))),
        },
        "0.6 MB there and back over REST": rest_calls(edge_http, uvicorn, small),
        "codec of 3.2 MB at 8 bits": {"coinfer": lambda: codec.decode(codec.encode(large, 8))},
    }


def main() -> None:
    parser = harness.parser(__doc__, "tensors")
    parser.add_argument("--rounds", type=int, default=500, help="rounds to measure")
    settings = parser.parse_args()
    keep_freed_memory()
    servers = [start(program, whole_line=True) for program in (EDGE, BARE, UVICORN, TCP)]
    figures = dict[str, harness.Figure]()
    try:
        addresses = [line.split("grpc=")[1].split(" models=")[0].strip() for _, line in servers]
        for case, calls in cases(*addresses).items():
            took_s = harness.take_turns(calls, 5 if settings.quick else settings.rounds, case, warm_up=20)
            for way, spent_s in took_s.items():
                bar = BARS_MS.get(case) if way == "coinfer" else None
                figures[f"{case}: {way}, ms"] = harness.figure(spent_s / MILLI, at_most=bar)
            for way in RATIO_BARS.keys() & took_s.keys():
                ratio = took_s["coinfer"] / took_s[way]
                figures[f"{case}: coinfer over {way}"] = harness.figure(ratio, at_most=RATIO_BARS[way])
    finally:
        for process, _ in servers:
            process.terminate()
            process.wait()
    harness.save(settings, figures)


if __name__ == "__main__":
    main()

"""Malformed requests: what is valid with bytes changed, cut out, repeated or replaced, over gRPC and REST.

Only refusals that blame the caller are allowed (and answers, as some changes leave a request valid): no internal error,
no hang, no crash, and no memory that grows. Well-formed requests in between must be answered throughout.
"""

import argparse
import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import harness
import numpy as np
from fault_kinds.nodes import Node, nodes
from tritonclient.grpc import service_pb2 as pb

from coinfer.runtime.codec.tensors import pack
from coinfer.runtime.protocol import protobuf
from coinfer.runtime.protocol.messages import InferRequest, RequestedObjective, from_array
from coinfer.runtime.transport.grpc_transport import SERVICE, client_options
from coinfer.types import Hop
from coinfer.units import MIB

MODEL, SHAPE = "alexnet-cifar", (1, 3, 32, 32)
BLAMES_CALLER = {
    "OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "DEADLINE_EXCEEDED",
}  # fmt: skip
EVIL_NUMBERS = (0, -1, 1, 2**31 - 1, 2**31, 2**32, 2**48, 2**62, 2**63 - 1, -(2**63))
EVIL_TEXTS = (
    "",
    "\0",
    "nope",
    "../../etc/passwd",
    "x" * 300,
    "FP99",
    "BYTES",
    "input\n",
    "ä" * 200,
    "[[[[",
    "{}",
    "1e999",
)
HANG_S = 1.0
WINDOW = 48
WARM_UP = 0.1
"""Share of the requests before growth of memory counts: allocators and threads take theirs first."""
GROWTH_MIB = 1.0


def seeds() -> list[bytes]:
    """Return valid requests of all kinds."""
    picture = np.linspace(-1, 1, int(np.prod(SHAPE)), dtype=np.float32).reshape(SHAPE)
    whole = from_array("input", picture)
    hops = (Hop("127.0.0.1:9", ("logits",), 32),)
    requests = [
        InferRequest(MODEL, (whole,)),
        InferRequest(MODEL, (whole,), ("logits",), deadline_s=5.0, id="a", priority=3),
        InferRequest(MODEL, (pack("input", picture, 8),), ("logits",), bits=8),
        InferRequest(MODEL, (whole,), ("pool1",), route=hops),
        InferRequest(MODEL, (whole,), ("logits",), fingerprint="ab" * 16),
        InferRequest(MODEL, (whole,), objective=RequestedObjective("energy", None, 0.5)),
        InferRequest(MODEL, (pack("input", picture, 4),), ("logits",), warm=True),
        InferRequest("echo", (from_array("x", np.arange(6).reshape(2, 3)),)),
    ]
    typed = pb.ModelInferRequest(model_name=MODEL)
    entry = typed.inputs.add(name="input", datatype="FP32", shape=SHAPE)
    entry.contents.fp32_contents.extend(picture.ravel().tolist())
    return [*map(protobuf.request_bytes, requests), typed.SerializeToString()]


def mutate(data: bytes, rng: random.Random, head: int = 220) -> bytes:
    """Return bytes with one to three changes, most of them in the head, where names and sizes are."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        size = len(out) or 1
        at = rng.randrange(min(size, head)) if rng.random() < 0.8 else rng.randrange(size)
        change = rng.randrange(7)
        if change == 0:
            out[at : at + 1] = bytes([rng.randrange(256)])
        elif change == 1:
            del out[at:]
        elif change == 2:
            del out[at : at + rng.randint(1, 16)]
        elif change == 3:
            out[at:at] = out[at : at + rng.randint(1, 64)]
        elif change == 4:
            out[at : at + rng.randint(1, 9)] = b"\xff" * rng.randint(1, 10)
        elif change == 5:
            out[at:at] = rng.randbytes(rng.randint(1, 24))
        else:
            out[at : at + 1] = bytes([out[at] ^ (1 << rng.randrange(8))]) if out else b""
    return bytes(out)


def wrong_proto(data: bytes, rng: random.Random) -> bytes:
    """Return a well-formed message that asks for nonsense."""
    proto = pb.ModelInferRequest.FromString(data)
    entry = proto.inputs[0]
    match rng.randrange(8):
        case 0:
            entry.shape[rng.randrange(len(entry.shape))] = rng.choice(EVIL_NUMBERS)
        case 1:
            entry.shape.extend(rng.choice(EVIL_NUMBERS) for _ in range(rng.randint(1, 20)))
        case 2:
            entry.datatype = rng.choice(EVIL_TEXTS)
        case 3:
            entry.name = rng.choice(EVIL_TEXTS)
        case 4:
            proto.model_name = rng.choice(EVIL_TEXTS)
        case 5:
            name = rng.choice(("deadline_s", "bits", "route", "warm", "priority", "goal", "timeout", "fingerprint"))
            value, parameter = rng.choice(EVIL_NUMBERS), proto.parameters[name]
            rng.choice((
                lambda: setattr(parameter, "int64_param", value),
                lambda: setattr(parameter, "double_param", rng.choice((float("nan"), float("inf"), -1.0, 1e308))),
                lambda: setattr(parameter, "string_param", rng.choice(EVIL_TEXTS)),
                lambda: setattr(parameter, "bool_param", True),
            ))()  # fmt: skip
        case 6:
            for _ in range(rng.randint(1, 80)):
                proto.outputs.add().name = rng.choice(EVIL_TEXTS)
        case _:
            proto.raw_input_contents.append(b"surplus")
    return proto.SerializeToString()


def grpc_messages(rng: random.Random) -> Iterator[bytes]:
    """Yield malformed gRPC messages without end."""
    valid = seeds()
    while True:
        data = rng.choice(valid)
        yield wrong_proto(data, rng) if rng.random() < 0.3 else mutate(data, rng)


def json_body(rng: random.Random) -> tuple[dict[str, str], bytes]:
    """Return headers and body of a REST request with nonsense."""
    evil: list[Any] = [*EVIL_NUMBERS, *EVIL_TEXTS, None, True, [], {}, [[[]]], 1e308, 10 ** rng.randint(20, 4350)]
    entry: dict[str, Any] = {"name": "input", "datatype": "FP32", "shape": list(SHAPE), "data": [0.5] * 3072}
    content: dict[str, Any] = {"inputs": [entry], "outputs": [{"name": "logits"}], "parameters": {}}
    headers: dict[str, str] = {}
    if rng.random() < 0.3:
        entry.pop("data")
        entry["parameters"] = {"binary_data_size": rng.choice([12288, 5, *evil])}
    for _ in range(rng.randint(0, 2)):
        where = rng.choice(
            (content, entry, content["parameters"] if isinstance(content["parameters"], dict) else entry)
        )
        key = rng.choice((*where, "shape", "data", "deadline_s", "bits", "route", "binary_data_output", "id"))
        where[key] = rng.choice(evil)
    if isinstance(entry.get("data"), list) and rng.random() < 0.4:
        entry["data"] = [*entry["data"][:-1], rng.choice(evil)]
    try:
        text = json.dumps(content)
    except ValueError:  # Python itself writes no number of so many digits
        text = '{"inputs": [{"name": "input", "shape": [' + "9" * 5000 + "]}]}"
    body = text.encode()
    if "data" not in entry:
        headers["Inference-Header-Content-Length"] = rng.choice((str(len(body)), "-1", "9" * 30, "0", "x"))
        body += b"\0" * rng.choice((12288, 0, 7))
    if rng.random() < 0.4:
        body = mutate(body, rng)
    return headers, body


class Told:
    """What became of the requests so far."""

    def __init__(self) -> None:
        self.codes: Counter[str] = Counter()
        self.slowest_s = 0.0
        self.hangs = 0
        self._lock = threading.Lock()

    def note(self, code: str, took_s: float) -> None:
        """Count an answer."""
        with self._lock:
            self.codes[code] += 1
            self.slowest_s = max(self.slowest_s, took_s)
            self.hangs += took_s > HANG_S


def ask_grpc(node: Node, rng: random.Random, told: Told, count: int) -> None:
    """Send malformed messages over one connection, some of them at a time."""
    channel = grpc.insecure_channel(node.grpc, client_options(patience_s=60.0))
    call, places = channel.unary_unary(f"/{SERVICE}/ModelInfer"), threading.Semaphore(WINDOW)

    def ended(future: Any, began_s: float) -> None:
        places.release()
        told.note("OK" if future.exception() is None else future.code().name, time.monotonic() - began_s)

    for message, _ in zip(grpc_messages(rng), range(count), strict=False):
        places.acquire()
        began_s = time.monotonic()
        call.future(message, timeout=60.0).add_done_callback(lambda future, began_s=began_s: ended(future, began_s))
    for _ in range(WINDOW):
        places.acquire()
    channel.close()


def ask_http(node: Node, rng: random.Random, told: Told, count: int) -> None:
    """Send malformed bodies over a connection that is opened again where the server closes it."""
    connection = http.client.HTTPConnection(node.http, timeout=60.0)
    path = f"/v2/models/{MODEL}/infer"
    for _ in range(count):
        headers, body = json_body(rng)
        began_s = time.monotonic()
        try:
            connection.request("POST", path, body, headers)
            reply = connection.getresponse()
            told.note(_code(reply.status, reply.read()), time.monotonic() - began_s)
        except (http.client.HTTPException, OSError) as error:
            told.note(type(error).__name__, time.monotonic() - began_s)
            connection.close()
    connection.close()


def _code(status: int, body: bytes) -> str:
    if status == 200:
        return "OK"
    try:
        return json.loads(body).get("code", str(status))
    except ValueError:
        return str(status)


CLIENTS: dict[str, Callable[[Node, random.Random, Told, int], None]] = {"grpc": ask_grpc, "http": ask_http}


def torment(node: Node, protocol: str, count: int, threads: int, about: str) -> dict[str, Any]:
    """Send so many malformed requests; return what became of them, and how the node's memory grew."""
    told, began_s = Told(), time.monotonic()
    part = count // threads
    work = [
        threading.Thread(target=CLIENTS[protocol], args=(node, random.Random(seed), told, part), daemon=True)
        for seed in range(threads)
    ]
    for thread in work:
        thread.start()
    samples: list[tuple[int, float]] = []
    while any(thread.is_alive() for thread in work):
        time.sleep(0.2)
        samples.append((told.codes.total(), node.rss_bytes() / MIB))
        if len(samples) % 150 == 0:
            print(f"{about}: {samples[-1][0]:,} of {count:,}, {samples[-1][1]:.1f} MiB", flush=True)
    warm = [mib for done, mib in samples if done >= WARM_UP * count] or [samples[-1][1]]
    last = warm[-max(len(warm) // 10, 1) :]
    first = warm[: max(len(warm) // 10, 1)]
    bad = {code: number for code, number in told.codes.items() if code not in BLAMES_CALLER}
    return {
        "requests": told.codes.total(),
        "per_s": round(told.codes.total() / (time.monotonic() - began_s)),
        "codes": dict(told.codes.most_common()),
        "not_blaming_the_caller": bad,
        "logged_errors": node.problems(),
        "alive": node.process.poll() is None,
        "slowest_s": round(told.slowest_s, 3),
        f"longer_than_{HANG_S:g}_s": told.hangs,
        "rss_mib": [round(float(np.median(first)), 2), round(float(np.median(last)), 2)],
        "rss_growth_mib": round(float(np.median(last) - np.median(first)), 2),
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what this kind alone takes."""
    parser.add_argument("--requests", type=int, default=1_000_000, help="over gRPC to the edge server")
    parser.add_argument("--http-requests", type=int, default=100_000, help="over REST to the edge server")
    parser.add_argument("--gateway-requests", type=int, default=50_000, help="over each to the gateway")


def run(settings: argparse.Namespace) -> dict[str, harness.Figure]:
    """Return what became of malformed requests to an edge server and to a gateway."""
    counts = {
        ("edge", "grpc"): settings.requests,
        ("edge", "http"): settings.http_requests,
        ("gateway", "grpc"): settings.gateway_requests,
        ("gateway", "http"): settings.gateway_requests,
    }
    commands = [["edge", MODEL, "--echo"], ["gateway", MODEL]]
    found: dict[str, Any] = {}
    with nodes(commands) as (edge, gateway):
        targets = {"edge": edge, "gateway": gateway}
        for (target, protocol), count in counts.items():
            count = 200 if settings.quick else count
            name = f"{target}, {protocol}"
            found[name] = torment(targets[target], protocol, count, 2, name)
            print(f"{name}: {found[name]}", flush=True)
    return found

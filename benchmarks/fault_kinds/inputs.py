"""Well-formed messages with inputs that the network cannot take, generated, over gRPC and REST; and odd numbers.

Every one must be refused as the caller's fault, with the name of the input, what was expected and what came, before
anything is computed (`executions` stay as they were). Then tensors with NaN (any payload), infinities and denormals
have to come back bit by bit from the echo, and names, tensors and metadata over their limits have to be refused. Goals:
100 % of 100,000 INVALID_ARGUMENT, none of them reaches the network.
"""

import argparse
import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
from fault_kinds import targets
from fault_kinds.load import quantile_ms
from fault_kinds.nodes import Node, nodes
from tritonclient.grpc import service_pb2 as pb

from coinfer.runtime.transport.grpc_transport import SERVICE, client_options

MODEL, INPUT, SHAPE = targets.MODEL, targets.GRAPH.inputs[0], (1, 3, 32, 32)
ELEMENTS = int(np.prod(SHAPE))
WINDOW = 32
REFUSED = "INVALID_ARGUMENT"
METRICS_S = 0.5
"""A node makes its metrics anew after this time."""


class Wrong:
    """One request in the terms of both protocols: an entry for each input, and the bytes of each."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = [{"name": INPUT, "datatype": "FP32", "shape": list(SHAPE)}]
        self.data = [bytes(4 * ELEMENTS)]
        self.outputs = [targets.GRAPH.outputs[0]]
        self.names = INPUT
        """What the refusal has to name."""


def wrong(rng: random.Random) -> Wrong:
    """Return a request with one thing wrong."""
    made = Wrong()
    (entry,) = made.entries

    def sized(shape: list[int], datatype: str = "FP32", size: int = 4) -> None:
        count = int(np.prod(shape)) if all(0 <= side < 1 << 16 for side in shape) else ELEMENTS
        entry.update(shape=shape, datatype=datatype)
        made.data[0] = bytes(size * min(count, 4 * ELEMENTS))

    def second(name: str) -> None:
        made.entries.append({**entry, "name": name})
        made.data.append(made.data[0])

    def unknown(kind: str) -> None:
        made.names = f"no-{rng.randrange(10**6)}"
        if kind == "output":
            made.outputs = [made.names]
        else:
            second(made.names)

    def bytes_off() -> None:
        off = rng.choice((-1, 1, -4, 4, rng.randrange(5, 4000)))
        made.data[0] = bytes(len(made.data[0]) + off)

    def none() -> None:
        made.entries, made.data = [], []

    number = rng.randrange(2, 60)
    choices: list[Callable[[], None]] = [
        lambda: sized(list(SHAPE), *rng.choice((("FP64", 8), ("INT32", 4), ("UINT8", 1), ("BOOL", 1), ("INT64", 8)))),
        lambda: sized(list(SHAPE), rng.choice(("FP99", "float32", "", "fp32"))),
        lambda: sized([1, 3, 32, 32 + number]),
        lambda: sized([1, number + 2, 32, 32]),
        lambda: sized(list(SHAPE[: rng.randrange(4)])),
        lambda: sized([1] * rng.randrange(1, 4) + list(SHAPE)),
        lambda: sized([rng.choice((0, -1, -(2**31))), 3, 32, 32]),
        lambda: sized(rng.choice(([2**31, 2**31, 2, 1], [2**62, 4, 1, 1], [2**32, 2**32, 1, 1], [1, 3, 2**61, 32]))),
        lambda: second(INPUT),
        lambda: unknown("input"),
        lambda: unknown("output"),
        bytes_off,
        none,
    ]
    rng.choice(choices)()
    return made


def as_proto(request: Wrong, rng: random.Random) -> bytes:
    """Return a request as a gRPC message; raw bytes and numbers together are one more thing that is wrong."""
    proto = pb.ModelInferRequest(model_name=MODEL, raw_input_contents=request.data)
    for entry in request.entries:
        proto.inputs.add(**entry)
    for name in request.outputs:
        proto.outputs.add().name = name
    if proto.inputs and request.names == INPUT and rng.random() < 0.1:
        proto.inputs[0].contents.fp32_contents.extend([0.5] * ELEMENTS)
    return proto.SerializeToString()


def as_http(request: Wrong) -> tuple[dict[str, str], bytes]:
    """Return a request as headers and a body."""
    pairs = zip(request.entries, request.data, strict=True)
    entries = [{**entry, "parameters": {"binary_data_size": len(data)}} for entry, data in pairs]
    head = json.dumps({"inputs": entries, "outputs": [{"name": name} for name in request.outputs]}).encode()
    return {"Inference-Header-Content-Length": str(len(head))}, head + b"".join(request.data)


class Refusals:
    """What wrong requests were told."""

    def __init__(self) -> None:
        self.codes: Counter[str] = Counter()
        self.nameless = 0
        """Refusals that do not name the input or output."""
        self.odd: list[str] = []
        """The first texts of those that are not as they should be."""

    def note(self, code: str, text: str, names: str) -> None:
        """Count an answer."""
        self.codes[code] += 1
        nameless = code == REFUSED and names not in text
        self.nameless += nameless
        if (nameless or code != REFUSED) and len(self.odd) < 10:
            self.odd.append(f"{code}: {text[:200]}")


def ask_grpc(node: Node, rng: random.Random, refusals: Refusals, count: int) -> None:
    """Send wrong requests over one connection, some of them at a time."""
    places = threading.Semaphore(WINDOW)

    def ended(future: Any, names: str) -> None:
        error = future.exception()
        refusals.note("OK" if error is None else future.code().name, "" if error is None else future.details(), names)
        places.release()

    with grpc.insecure_channel(node.grpc, client_options(patience_s=60.0)) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        for _ in range(count):
            request = wrong(rng)
            places.acquire()
            future = call.future(as_proto(request, rng), timeout=60.0)
            future.add_done_callback(lambda future, names=request.names: ended(future, names))
        for _ in range(WINDOW):
            places.acquire()


def ask_http(node: Node, rng: random.Random, refusals: Refusals, count: int) -> None:
    """Send wrong requests over one connection, one after the other."""
    connection = http.client.HTTPConnection(node.http, timeout=60.0)
    for _ in range(count):
        request = wrong(rng)
        headers, body = as_http(request)
        connection.request("POST", f"/v2/models/{MODEL}/infer", body, headers)
        reply = connection.getresponse()
        said = json.loads(reply.read())
        refusals.note(said.get("code", str(reply.status)) if reply.status != 200 else "OK", str(said), request.names)
    connection.close()


CLIENTS = {"grpc": ask_grpc, "http": ask_http}


def refused(node: Node, protocol: str, count: int) -> dict[str, Any]:
    """Return what wrong requests were told."""
    refusals, before = Refusals(), node.metric("nv_inference_exec_count", model=MODEL)
    began_s = time.monotonic()
    CLIENTS[protocol](node, random.Random(5), refusals, count)
    per_s = count / (time.monotonic() - began_s)
    time.sleep(METRICS_S)
    return {
        "requests": refusals.codes.total(),
        "per_s": round(per_s),
        "codes": dict(refusals.codes),
        "nameless": refusals.nameless,
        "odd": refusals.odd,
        "reached_the_network": round(node.metric("nv_inference_exec_count", model=MODEL) - before),
        "logged_errors": node.problems(),
    }


def odd_numbers(node: Node, count: int) -> dict[str, int]:
    """Return how many tensors of any bit patterns came back otherwise from the echo."""
    rng, changed = np.random.default_rng(4), 0
    special = np.array(
        [0x7FC00001, 0xFFC12345, 0x7F800001, 0x7F800000, 0xFF800000, 0x80000000, 1, 0x807FFFFF], np.uint32
    )
    with grpc.insecure_channel(node.grpc) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        for _ in range(count):
            data = rng.permutation(np.concatenate([special, rng.integers(0, 2**32, 24, np.uint32)])).tobytes()
            proto = pb.ModelInferRequest(model_name="echo", raw_input_contents=[data])
            proto.inputs.add(name="x", datatype="FP32", shape=[len(data) // 4])
            reply = pb.ModelInferResponse.FromString(call(proto.SerializeToString(), timeout=60.0))
            changed += reply.raw_output_contents[0] != data
    return {"tensors": count, "changed": changed}


def too_many() -> dict[str, tuple[bytes, list[tuple[str, str]]]]:
    """Return messages and metadata that are over a limit which is not that of the message."""

    def message(inputs: int = 1, outputs: int = 1, name: str = INPUT, model: str = MODEL) -> bytes:
        proto = pb.ModelInferRequest(model_name=model, raw_input_contents=[bytes(4 * ELEMENTS)])
        for number in range(inputs):
            proto.inputs.add(name=f"{name}{number or ''}", datatype="FP32", shape=SHAPE)
        for number in range(outputs):
            proto.outputs.add().name = f"out{number}"
        return proto.SerializeToString()

    return {
        "10,000 inputs": (message(inputs=10_000), []),
        "10,000 outputs": (message(outputs=10_000), []),
        "name of 10,000 bytes": (message(name="x" * 10_000), []),
        "model's name of 10,000 bytes": (message(model="x" * 10_000), []),
        "metadata of 20,000 bytes": (message(), [("x-much", "y" * 20_000)]),
    }


def limits(node: Node, rounds: int) -> dict[str, Any]:
    """Return how messages that are over a limit are refused, and how long that takes."""
    found: dict[str, Any] = {}
    with grpc.insecure_channel(node.grpc) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        for name, (message, metadata) in too_many().items():
            codes, took_s = Counter[str](), list[float]()
            for _ in range(rounds):
                began_s = time.monotonic()
                error = call.future(message, timeout=60.0, metadata=metadata).exception()
                took_s.append(time.monotonic() - began_s)
                codes["OK" if error is None else error.code().name] += 1
            found[name] = {"codes": dict(codes), "p50_ms": quantile_ms(took_s, 0.5)}
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what this kind alone takes."""
    parser.add_argument("--requests", type=int, default=100_000, help="over gRPC to the edge server; a fifth to others")


def run(settings: argparse.Namespace) -> dict[str, Any]:
    """Return what wrong inputs were told by an edge server and by a gateway."""
    found: dict[str, Any] = {}
    with nodes([["edge", MODEL, "--echo"], ["gateway", MODEL]]) as both:
        for name, node in zip(("edge", "gateway"), both, strict=True):
            for protocol in CLIENTS:
                target = f"{name}-{protocol}"
                count = 150 if settings.quick else settings.requests // (1 if target == "edge-grpc" else 5)
                found[target] = refused(node, protocol, count)
                print(f"{target}: {found[target]}", flush=True)
        found["odd numbers"] = odd_numbers(both[0], 10 if settings.quick else 1000)
        found["over limits"] = limits(both[0], 3 if settings.quick else 100)
        print(found["odd numbers"], found["over limits"], flush=True)
    return found

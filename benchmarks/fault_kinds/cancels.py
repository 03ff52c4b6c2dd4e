"""Callers that give up at random moments: is all that they asked for released?

Over gRPC calls are cancelled, over REST connections are closed, some before the request is complete. Afterwards every
request must be counted as ended (received = answered + failed), none may be in flight, memory must not have grown, and
the node answers. Goal: 10,000 at each target, nothing in flight after a second.
"""

import argparse
import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
from fault_kinds import targets
from fault_kinds.load import ANSWERED, Ask, capacity
from fault_kinds.nodes import Node, nodes

from coinfer.runtime.protocol import protobuf
from coinfer.runtime.protocol.messages import InferRequest, from_array
from coinfer.runtime.transport.grpc_transport import SERVICE, client_options
from coinfer.units import MIB

SLOWDOWN = 40.0
CALLERS = 4
LONGEST_SERVICES = 3.0
"""Callers give up after a time between none and so many times what a request takes."""
RELEASED_S = 60.0
"""What is still in flight after this time is lost."""
AGAIN_S = 0.25
"""Between two looks at a node; it makes its metrics anew less often than it is asked for them."""
WARM_UP = 0.1


def cancel_grpc(node: Node, rng: random.Random, count: int, longest_s: float) -> int:
    """Cancel calls over one connection; return how many were answered before."""
    answered = 0
    tensor = from_array(targets.GRAPH.inputs[0], targets.INPUTS[0])
    message = protobuf.request_bytes(InferRequest(targets.MODEL, (tensor,), targets.GRAPH.outputs))
    with grpc.insecure_channel(node.grpc, client_options(patience_s=60.0)) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        for _ in range(count):
            future = call.future(message, timeout=targets.PATIENCE_S)
            time.sleep(rng.uniform(0.0, longest_s))
            answered += not future.cancel()
    return answered


def cancel_http(node: Node, rng: random.Random, count: int, longest_s: float) -> int:
    """Close connections with a request on them; return how many had an answer before."""
    head, body = targets.http_body(0)
    path = f"/v2/models/{targets.MODEL}/infer"
    lines = [f"POST {path} HTTP/1.1", f"Host: {node.http}", f"Content-Length: {len(head) + len(body)}"]
    lines += [f"Inference-Header-Content-Length: {len(head)}", "", ""]
    message = "\r\n".join(lines).encode() + head + body
    host, _, port = node.http.rpartition(":")
    answered = 0
    for _ in range(count):
        with socket.create_connection((host, int(port)), targets.PATIENCE_S) as one:
            one.sendall(message[: rng.randrange(1, len(message))] if rng.random() < 0.2 else message)
            time.sleep(rng.uniform(0.0, longest_s))
            one.setblocking(False)
            with contextlib.suppress(OSError):
                answered += bool(one.recv(1))
    return answered


CLIENTS: dict[str, Callable[[Node, random.Random, int, float], int]] = {"grpc": cancel_grpc, "http": cancel_http}


def give_up(node: Node, protocol: str, count: int, longest_s: float) -> int:
    """Let several callers give up so often; return how many requests were answered before."""
    answered: list[int] = []

    def work(seed: int) -> None:
        answered.append(CLIENTS[protocol](node, random.Random(seed), count // CALLERS, longest_s))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(answered)


def held(node: Node) -> int:
    """Return how many requests are in flight in a node, and jobs of its queue that have not ended."""
    ends = ("finished", "failed", "refused", "cancelled")
    ended = sum(node.metric("coinfer_jobs_total", what=what) for what in ends)
    unended = node.metric("coinfer_jobs_total", what="received") - ended
    return round(node.metric("nv_inference_pending_request_count") + unended)


def released_s(node: Node) -> float | None:
    """Wait until a node holds nothing, and still nothing a moment later; return how long that took, None if it does."""
    began_s = time.monotonic()
    empty_s: float | None = None
    while (now_s := time.monotonic()) < began_s + RELEASED_S:
        if held(node):
            empty_s = None
        elif empty_s is not None:
            return round(empty_s - began_s, 2)
        else:
            empty_s = now_s
        time.sleep(AGAIN_S)
    return None


def measure(node: Node, protocol: str, ask: Ask, count: int) -> dict[str, Any]:
    """Return what callers that give up leave behind in a node."""
    longest_s = LONGEST_SERVICES / capacity(ask, 0.5, at_once=1)
    give_up(node, protocol, max(int(WARM_UP * count), CALLERS), longest_s)
    released_s(node)
    rss = node.rss_bytes()
    answered = give_up(node, protocol, count, longest_s)
    waited_s = released_s(node)
    return {
        "cancelled": count - answered,
        "answered_before": answered,
        "released_after_s": waited_s,
        "held_then": held(node),
        "rss_growth_mib": round((node.rss_bytes() - rss) / MIB, 2),
        "answers_then": ask(0, float("inf")).what == ANSWERED,
        "logged_errors": node.problems(),
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what this kind alone takes."""
    parser.add_argument("--count", type=int, default=10_000, help="requests that are given up, at each target")


def run(settings: argparse.Namespace) -> dict[str, Any]:
    """Return what callers that give up leave behind in an edge server and in a gateway."""
    found: dict[str, Any] = {}
    slow = ["--slowdown", str(SLOWDOWN)]
    with nodes([["edge", targets.MODEL, *slow]]) as (edge,):
        command = ["gateway", targets.MODEL, "--servers", edge.grpc, "--bits", "32", *slow]
        with nodes([command]) as (gateway,):
            for name, node in (("edge", edge), ("gateway", gateway)):
                for protocol in ("grpc", "http"):
                    with targets.CLIENTS[protocol](getattr(node, protocol)) as ask:
                        count = 40 if settings.quick else settings.count
                        found[f"{name}-{protocol}"] = measure(node, protocol, ask, count)
                    print(f"{name}-{protocol}: {found[f'{name}-{protocol}']}", flush=True)
    return found

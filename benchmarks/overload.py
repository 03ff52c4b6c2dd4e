"""Measure how much of its goodput one edge server keeps under more load than it can serve.

    python benchmarks/overload.py

Requests with a deadline arrive at fixed times, whether or not others were answered (open loop), at 3 and 6 times the
capacity, which is measured just before each. The network is ResNet-32 on a processor that is emulated 40 times slower,
so that most of its time is sleep and the load generator does not compete with it. Writes
benchmarks/results/overload.json.
"""

import time
from collections import Counter
from concurrent.futures import Future
from typing import Any

import harness
import numpy as np

from coinfer.demo.cluster import edges
from coinfer.runtime.protocol.messages import InferRequest, TransportError, from_array
from coinfer.runtime.transport.grpc_transport import GrpcTransport, client_options

MODEL, SLOWDOWN = "resnet32", 40.0
DEADLINE_SERVICES = 12
"""Deadline of a request, in service times; the default queue does not fit into it, so deadlines bound the wait."""


def calm_rate(transport: GrpcTransport, node: str, duration_s: float) -> float:
    """Return requests per second with always two in flight, so that the worker never waits for the next."""
    request = InferRequest(MODEL, (from_array("input", np.zeros((1, 3, 32, 32), np.float32)),))
    began_s, count = time.monotonic(), 0
    flying = [transport.send(node, request, 60.0) for _ in range(2)]
    while not count or time.monotonic() < began_s + duration_s:
        flying.pop(0).result(60)
        count += 1
        flying.append(transport.send(node, request, 60.0))
    took_s = time.monotonic() - began_s
    for future in flying:
        future.result(60)
    return count / took_s


def overloaded(
    transport: GrpcTransport, node: str, rate: float, deadline_s: float, duration_s: float
) -> dict[str, Any]:
    """Return what became of requests that arrive at `rate` per second."""
    tensor = from_array("input", np.zeros((1, 3, 32, 32), np.float32))
    request = InferRequest(MODEL, (tensor,), deadline_s=deadline_s)
    ends: list[tuple[str, float, float]] = []
    pending: list[Future[Any]] = []

    def note(future: Future[Any], sent_s: float) -> None:
        error = future.exception()
        what = error.reason if isinstance(error, TransportError) else "failed" if error else "answered"
        ends.append((what, time.monotonic(), time.monotonic() - sent_s))

    began_s = time.monotonic()
    while (now_s := time.monotonic()) < began_s + duration_s:
        for _ in range(1 + int((now_s - began_s) * rate) - len(pending)):
            sent_s = time.monotonic()
            pending.append(transport.send(node, request, 60.0))
            pending[-1].add_done_callback(lambda future, sent_s=sent_s: note(future, sent_s))
        time.sleep(0.001)
    over_s = time.monotonic()
    for future in pending:
        future.exception(60)
    answered = [took_s for what, _, took_s in ends if what == "answered"]
    in_time = sum(what == "answered" and took_s <= deadline_s and at_s <= over_s for what, at_s, took_s in ends)
    refused = [took_s for what, _, took_s in ends if what in ("queue_full", "hopeless")]
    return {
        "sent": len(pending),
        "ends": dict(Counter(what for what, _, _ in ends)),
        "goodput_per_s": round(in_time / (over_s - began_s), 2),
        "in_time_of_answered": round(float(np.mean(np.array(answered) <= deadline_s)), 4) if answered else None,
        "answered_p99_ms": round(float(np.quantile(answered, 0.99)) * 1e3, 1) if answered else None,
        "refused_p99_ms": round(float(np.quantile(refused, 0.99)) * 1e3, 1) if refused else None,
    }


def main() -> None:
    parser = harness.parser(__doc__, "overload")
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds of each phase")
    settings = parser.parse_args()
    seconds = 1.0 if settings.quick else settings.seconds
    found: dict[str, Any] = {}
    transport = GrpcTransport(options=client_options(patience_s=60.0))
    with edges(MODEL, (SLOWDOWN,)) as (edge,):
        calm_rate(transport, edge.address, 1.0)
        for over in (3, 6):
            calm = calm_rate(transport, edge.address, seconds)
            phase = overloaded(transport, edge.address, over * calm, DEADLINE_SERVICES / calm, seconds)
            ratio = phase["goodput_per_s"] / calm
            found[f"{over}x"] = {"calm_per_s": round(calm, 2), "goodput_ratio": round(ratio, 4)} | phase
            print(
                f"{over} x overload: goodput {ratio:.1%} of {calm:.1f}/s, {phase['in_time_of_answered'] or 0:.1%} "
                f"in time; p99 of an answer {phase['answered_p99_ms']} ms, of a refusal {phase['refused_p99_ms']} ms"
            )
    transport.close()
    harness.write(settings, **found)


if __name__ == "__main__":
    main()

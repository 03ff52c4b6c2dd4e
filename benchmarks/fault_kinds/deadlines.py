"""Random deadlines under more load than there is room for: is anything computed or answered too late?

Requests come at 1.5 times the capacity, each with a deadline between almost none and 20 times what it takes. The
deadline travels with the request; the caller waits for longer, so that it sees what comes late. `began_late` counts
answers that waited in the queue for longer than their deadline, as the target says; `late` those that came more than
10 ms after it. What is not answered must be refused with a reason. Goals: none of 100,000 began late, none is late.
"""

import argparse
import contextlib
import random
import threading
import time
from collections import Counter
from typing import Any

from fault_kinds import targets
from fault_kinds.load import ANSWERED, Answer, Ask, OpenLoad, capacity, quantile_ms
from fault_kinds.nodes import nodes

SLOWDOWN = 20.0
LOAD = 1.5
LONGEST_SERVICES = 20.0
LATE_S = 0.01
REASONS = {"queue_full", "hopeless", "expired"}


class Deadlines:
    """Asks with deadlines of its own, and notes what came after them.

    Args:
        ask: makes a request.
        longest_s: the longest deadline.
    """

    def __init__(self, ask: Ask, longest_s: float):
        self.over_s: list[float] = []
        """From the deadline to its answer, of each request that was answered; negative if it was in time."""
        self.began_late = 0
        self._ask, self._longest_s, self._lock = ask, longest_s, threading.Lock()

    def __call__(self, request: int, _: float) -> Answer:
        deadline_s = random.Random(request).uniform(0.01, 1.0) * self._longest_s
        sent_s = time.monotonic()
        answer = self._ask(request, deadline_s)
        over_s = time.monotonic() - sent_s - deadline_s
        if answer.what == ANSWERED:
            with self._lock:
                self.over_s.append(over_s)
                self.began_late += answer.queue_s > deadline_s
        return answer


def measure(ask: Ask, count: int) -> dict[str, Any]:
    """Return what became of so many requests."""
    per_s = capacity(ask, 1.0, at_once=3)
    asked = Deadlines(ask, LONGEST_SERVICES / per_s)
    load = OpenLoad(asked, LOAD * per_s)
    while load.sent < count:
        time.sleep(0.05)
    ended = load.stop()
    ends = Counter(one.answer.what for one in ended)
    return {
        "requests": len(ended),
        "ends": dict(ends),
        "without_a_reason": sum(number for what, number in ends.items() if what not in {ANSWERED, *REASONS}),
        "began_late": asked.began_late,
        "late": sum(over_s > LATE_S for over_s in asked.over_s),
        "late_by_ms": quantile_ms([over_s for over_s in asked.over_s if over_s > LATE_S], 1.0),
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what this kind alone takes."""
    parser.add_argument("--requests", type=int, default=100_000, help="to the edge server over gRPC; a fifth to others")


def run(settings: argparse.Namespace) -> dict[str, Any]:
    """Return what became of requests to an edge server and to a gateway that has it.

    Requests that wait together do not run as one here, as then the wait includes the computing of the others.
    """
    found: dict[str, Any] = {}
    slow = ["--slowdown", str(SLOWDOWN)]
    with contextlib.ExitStack() as stack:
        (edge,) = stack.enter_context(nodes([["edge", targets.MODEL, *slow, "--batch", "1"]]))
        command = ["gateway", targets.MODEL, "--servers", edge.grpc, "--bits", "32", *slow]
        (gateway,) = stack.enter_context(nodes([command]))
        for name, node in (("edge", edge), ("gateway", gateway)):
            for protocol in ("grpc", "http"):
                target = f"{name}-{protocol}"
                count = 60 if settings.quick else settings.requests // (1 if target == "edge-grpc" else 5)
                with targets.CLIENTS[protocol](getattr(node, protocol)) as ask:
                    found[target] = measure(ask, count)
                print(f"{target}: {found[target]}", flush=True)
    return found

"""More load than a server or a gateway can serve: what it keeps of its goodput, and how it refuses the rest.

Requests with a deadline arrive at fixed times, whether or not others were answered (open loop), at 3 and 6 times the
capacity, which is measured just before each; then at 0.8 times, to see how soon all is calm again. The network runs on
a processor that is emulated many times slower, so that most of its time is sleep and the load generator does not
compete with it. Latencies are those that the caller sees.
"""

import argparse
import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from fault_kinds import targets
from fault_kinds.load import ANSWERED, Ask, Ended, OpenLoad, capacity, quantile_ms
from fault_kinds.nodes import nodes

SLOWDOWN = 200.0
"""About 90 ms for a request."""
DEADLINE_SERVICES = 12
"""Deadline of a request, in service times; the default queue does not fit into it, so deadlines bound the wait."""
OVERS = (3, 6)
CALM = 0.8
REFUSALS = {"queue_full", "hopeless"}
TARGETS = ("edge-grpc", "edge-http", "gateway-grpc", "gateway-http")


@contextlib.contextmanager
def asked(target: str) -> Iterator[Ask]:
    """Yield what asks one slow edge server, or a gateway whose device is as slow and which has that server."""
    node, _, protocol = target.partition("-")
    slow = ["--slowdown", str(SLOWDOWN)]
    with contextlib.ExitStack() as stack:
        (asked_node,) = stack.enter_context(nodes([["edge", targets.MODEL, *slow]]))
        if node == "gateway":
            command = ["gateway", targets.MODEL, "--servers", asked_node.grpc, "--bits", "32", *slow]
            (asked_node,) = stack.enter_context(nodes([command]))
        yield stack.enter_context(targets.CLIENTS[protocol](getattr(asked_node, protocol)))


def phase(ask: Ask, rate: float, deadline_s: float, seconds: float) -> tuple[list[Ended], float]:
    """Return what became of requests that arrive at a rate for some time, and when that time was over."""
    load = OpenLoad(ask, rate, deadline_s, threads=min(int(rate * 2 * deadline_s) + 16, 400))
    time.sleep(seconds)
    over_s = time.monotonic()
    return load.stop(), over_s


def report(ended: Sequence[Ended], over_s: float, seconds: float, calm: float, deadline_s: float) -> dict[str, Any]:
    """Return the figures of an overload."""
    answered_s = [one.took_s for one in ended if one.answer.what == ANSWERED]
    in_time = sum(one.answer.what == ANSWERED and one.took_s <= deadline_s and one.done_s <= over_s for one in ended)
    refused_s = [one.took_s for one in ended if one.answer.what in REFUSALS]
    expired = sum(one.answer.what == "expired" for one in ended)
    kept = sum(took_s <= deadline_s for took_s in answered_s)
    return {
        "calm_per_s": round(calm, 2),
        "goodput_ratio": round(in_time / seconds / calm, 4),
        "admitted_in_time": round(kept / max(len(answered_s) + expired, 1), 4),
        "expired": expired,
        "late": len(answered_s) - kept,
        "answered_p99_ms": quantile_ms(answered_s, 0.99),
        "refused_p50_ms": quantile_ms(refused_s, 0.5),
        "refused_p99_ms": quantile_ms(refused_s, 0.99),
        "ends": dict(Counter(one.answer.what for one in ended)),
    }


def measure(ask: Ask, seconds: float) -> dict[str, Any]:
    """Return the figures of one target."""
    found: dict[str, Any] = {}
    capacity(ask, 1.0, at_once=2)
    for over in OVERS:
        calm = capacity(ask, seconds / 2, at_once=3)
        deadline_s = DEADLINE_SERVICES / calm
        before, _ = phase(ask, CALM * calm, deadline_s, seconds / 2)
        ended, over_s = phase(ask, over * calm, deadline_s, seconds)
        after, _ = phase(ask, CALM * calm, deadline_s, 4.0 if seconds > 4 else 1.0)
        found[f"{over}x"] = report(ended, over_s, seconds, calm, deadline_s) | {
            "calm_p99_ms": quantile_ms([one.took_s for one in before], 0.99),
            "answered_after": round(sum(one.answer.what == ANSWERED for one in after) / len(after), 4),
            "p99_from_2_s_after_ms": quantile_ms(
                [one.took_s for one in after if one.due_s > after[0].due_s + 2.0] or [one.took_s for one in after], 0.99
            ),
        }
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what this kind alone takes."""
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds of each overload")
    parser.add_argument("--targets", nargs="+", default=TARGETS, choices=TARGETS)


def run(settings: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of each target."""
    found: dict[str, Any] = {}
    for target in settings.targets[: 1 if settings.quick else None]:
        with asked(target) as ask:
            found[target] = measure(ask, 1.0 if settings.quick else settings.seconds)
        print(f"{target}: {found[target]}", flush=True)
    return found

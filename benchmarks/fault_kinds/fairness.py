"""One caller asks ten times as much as its share: what do the others lose?

Five callers with addresses of their own ask one server for 80 % of what it can do, each for a fifth of that, with a
deadline. Then one of them asks for ten times as much. Goodput counts what was answered in time; goals: the others lose
at most 5 % of theirs, and Jain's index over them is at least 0.95.
"""

import argparse
import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fault_kinds import targets
from fault_kinds.load import ANSWERED, Ask, Ended, OpenLoad, capacity, lost
from fault_kinds.nodes import Relays, nodes
from fault_kinds.overload import CALM, DEADLINE_SERVICES, REFUSALS

CALLERS, GREED = 5, 10.0
SLOWDOWN = 100.0
TARGETS = ("edge-grpc", "edge-http", "gateway-grpc", "gateway-http")


def goodput(ended: Sequence[Ended], deadline_s: float) -> float:
    """Return the share of requests that were answered in time."""
    in_time = sum(one.answer.what == ANSWERED and one.took_s <= deadline_s for one in ended)
    return in_time / max(len(ended), 1)


def jain(values: Sequence[float]) -> float:
    """Return Jain's index of fairness: 1 if all are equal, 1/n if one has everything."""
    squares = sum(value**2 for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 0.0


def phase(asks: Sequence[Ask], rates: Sequence[float], deadline_s: float, seconds: float) -> list[list[Ended]]:
    """Return what became of the requests of each caller."""
    threads = [min(int(rate * 2 * deadline_s) + 8, 200) for rate in rates]
    loads = [
        OpenLoad(ask, rate, deadline_s, threads=count) for ask, rate, count in zip(asks, rates, threads, strict=True)
    ]
    time.sleep(seconds)
    return [load.stop() for load in loads]


def measure(asks: Sequence[Ask], seconds: float) -> dict[str, Any]:
    """Return what callers get beside a greedy one, the last of them, and without."""
    per_s = capacity(asks[0], seconds / 2, at_once=3)
    deadline_s, share = DEADLINE_SERVICES / per_s, CALM * per_s / len(asks)
    calm = phase(asks, [share] * len(asks), deadline_s, seconds)
    crowded = phase(asks, [share] * (len(asks) - 1) + [GREED * share], deadline_s, seconds)
    before, after = ([goodput(ended, deadline_s) for ended in part[:-1]] for part in (calm, crowded))
    others = [one for ended in crowded[:-1] for one in ended]
    ends = Counter(one.answer.what for one in [*others, *crowded[-1]])
    return {
        "capacity_per_s": round(per_s, 1),
        "others_goodput": {
            "calm": round(sum(before) / len(before), 4),
            "beside_greed": round(sum(after) / len(after), 4),
        },
        "others_lose": round(1 - sum(after) / max(sum(before), 1e-9), 4),
        "others_jain": round(jain(after), 4),
        "greedy_goodput": round(goodput(crowded[-1], deadline_s), 4),
        "others_ends": lost(others),
        "requests": len(others) + len(crowded[-1]),
        "not_refused_with_a_reason": sum(n for what, n in ends.items() if what not in {ANSWERED, "expired", *REFUSALS}),
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what this kind alone takes."""
    parser.add_argument("--seconds", type=float, default=30.0, help="seconds in calm, and beside the greedy caller")
    parser.add_argument("--targets", nargs="+", default=TARGETS, choices=TARGETS)


def run(settings: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of each target; what waits together does not run as one, so that the capacity is known."""
    found: dict[str, Any] = {}
    slow = ["--slowdown", str(SLOWDOWN)]
    sources = [f"127.0.0.{number + 2}" for number in range(CALLERS)]
    for target in settings.targets[: 1 if settings.quick else None]:
        name, _, protocol = target.partition("-")
        with contextlib.ExitStack() as stack:
            command = [name, targets.MODEL, *slow, *(["--batch", "1"] if name == "edge" else [])]
            (node,) = stack.enter_context(nodes([command]))
            relays = Relays([getattr(node, protocol)] * CALLERS, sources)
            stack.callback(relays.close)
            asks = [stack.enter_context(targets.CLIENTS[protocol](address)) for address in relays.addresses]
            found[target] = measure(asks, 1.0 if settings.quick else settings.seconds)
        print(f"{target}: {found[target]}", flush=True)
    return found

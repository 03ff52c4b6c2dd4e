"""Hours of work: does memory grow, and do threads or files pile up?

Requests come at half of the capacity, some of them malformed and some abandoned half-way, to an edge server and to a
gateway that has it as its server, over gRPC and REST. The slope of the memory is that of a straight line through all
samples after the first fifth.
"""

import argparse
import contextlib
import random
import threading
import time
from typing import Any

import numpy as np
import psutil
from fault_kinds import malformed, targets
from fault_kinds.load import OpenLoad, capacity, lost, quantile_ms
from fault_kinds.nodes import Node, nodes

from coinfer.units import MIB

LOAD = 0.5
MALFORMED_PER_S = 5.0
WARM_UP = 0.2


def sample(node: Node) -> dict[str, float]:
    """Return what a node holds now."""
    process = psutil.Process(node.process.pid)
    return {"rss_mib": node.rss_bytes() / MIB, "threads": process.num_threads(), "files": process.num_fds()}


def slope(at_s: list[float], values: list[float]) -> float:
    """Return how much a value grows in an hour."""
    return float(np.polyfit(np.array(at_s) / 3600, values, 1)[0])


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what this kind alone takes."""
    parser.add_argument("--minutes", type=float, default=60.0)


def run(settings: argparse.Namespace) -> dict[str, Any]:
    """Return what became of the requests, and how edge server and gateway have grown."""
    seconds = 2.0 if settings.quick else 60 * settings.minutes
    with contextlib.ExitStack() as stack:
        (edge,) = stack.enter_context(nodes([["edge", targets.MODEL, "--slowdown", "40", "--echo"]]))
        command = ["gateway", targets.MODEL, "--servers", edge.grpc, "--slowdown", "60", "--bits", "32"]
        (gateway,) = stack.enter_context(nodes([command]))
        both = {"edge": edge, "gateway": gateway}
        asks = {
            f"{name}-{protocol}": stack.enter_context(targets.CLIENTS[protocol](getattr(node, protocol)))
            for name, node in both.items()
            for protocol in ("grpc", "http")
        }
        rate = LOAD * capacity(asks["edge-grpc"], min(3.0, seconds), at_once=2) / len(asks)
        loads = {name: OpenLoad(ask, rate, retry=True, threads=32) for name, ask in asks.items()}
        over, told = threading.Event(), malformed.Told()
        thread = threading.Thread(target=_nonsense, args=(list(both.values()), over, told))
        thread.start()
        began_s, at_s = time.monotonic(), list[float]()
        samples: dict[str, list[dict[str, float]]] = {name: [] for name in both}
        while (now_s := time.monotonic() - began_s) < seconds:
            at_s.append(now_s)
            for name, node in both.items():
                samples[name].append(sample(node))
            if len(at_s) % 60 == 0:
                now = {name: round(held[-1]["rss_mib"], 1) for name, held in samples.items()}
                print(f"{now_s / 60:.1f} of {seconds / 60:g} min: {now} MiB", flush=True)
            over.wait(min(1.0, seconds / 4))
        over.set()
        thread.join()
        ended = {name: load.stop() for name, load in loads.items()}
        first = int(WARM_UP * len(at_s))
        found: dict[str, Any] = {"minutes": seconds / 60, "malformed": dict(told.codes)}
        for name, held in samples.items():
            grown = {key: [one[key] for one in held[first:]] for key in held[0]}
            found[name] = {
                "rss_mib": [round(grown["rss_mib"][0], 1), round(grown["rss_mib"][-1], 1)],
                "rss_slope_mib_per_hour": round(slope(at_s[first:], grown["rss_mib"]), 2),
                "threads": [grown["threads"][0], grown["threads"][-1]],
                "files": [grown["files"][0], grown["files"][-1]],
                "logged_errors": both[name].problems(),
            }
        for name, part in ended.items():
            took_s = [one.took_s for one in part]
            found[name] = {
                "requests": len(part), "lost": lost(part),
                "p50_ms": quantile_ms(took_s, 0.5), "p99_ms": quantile_ms(took_s, 0.99),
            }  # fmt: skip
        print(found, flush=True)
        return found


def _nonsense(both: list[Node], over: threading.Event, told: malformed.Told) -> None:
    rng = random.Random(1)
    while not over.wait(1 / MALFORMED_PER_S):
        node, client = rng.choice(both), rng.choice([*malformed.CLIENTS.values()])
        client(node, rng, told, 1)

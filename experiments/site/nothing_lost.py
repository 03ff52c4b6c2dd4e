"""Is anything lost? Faults of every kind while devices ask at 70 % of what the servers can compute.

    python experiments/site/nothing_lost.py [--kills 100] [--cut-s 60] [--swaps 1000] [--files 100] [--kinds KIND ...]

A site as in `worth_it.py`, of which parts are killed with SIGKILL at random moments and started again on their ports:
the controller, then the edge servers in turn. Then nothing passes between the nodes and the controller for a while; the
controller's files may not grow, as on a full disk; policies are swapped as fast as the servers take them; broken policy
files are pushed. Each request carries a trace of its own, by which its record is looked up in the controller's log once
all nodes have told everything: every answered request must be there exactly once. Counts go to results/NAME.json.
"""

import json
import random
import resource
import threading
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from crowd import IN_FLIGHT
from nodes import there, wait_until
from proxy import Proxy
from worth_it import GREEDY, RESULTS, Site, options, write

from coinfer.errors import UserError
from coinfer.site.operator import read_policy
from coinfer.site.store import read_experience

LOAD = 0.7
PAUSE_S = 3.0
"""Mean time from a node's return to the next kill."""
SETTLE_S = 30.0
"""What the log lacks for so long after all nodes have said that they hold nothing is lost. They may have said it before
the last answer."""
FULL_BYTES = 4096
"""No file of the controller may grow beyond this while its disk is full."""


class Load:
    """Requests of all devices, from entering to leaving; their answers are counted.

    Args:
        site: whose devices ask for dispatch.
        seed: of the moments.
    """

    def __init__(self, site: Site, seed: int):
        self.rows: list[dict[str, Any]] = []
        self.lost: list[str] = []
        self._site, self._seed = site, seed
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        rate_per_s = LOAD * self._site.crowd.capacity_per_s()
        rng = np.random.default_rng(self._seed)
        futures: list[Future[dict[str, Any]]] = []
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            while not self._over.wait(float(rng.exponential(1 / rate_per_s))):
                futures.append(pool.submit(self._site.ask_once, GREEDY, int(rng.integers(1 << 30))))
        for future in futures:
            try:
                self.rows.append(future.result())
            except Exception as error:  # whatever it is, this request was not answered
                self.lost.append(f"{type(error).__name__}: {error}")


def kill_controller(site: Site, parsed: Namespace) -> int:
    """Kill the controller again and again."""
    for _ in range(parsed.kills):
        time.sleep(random.expovariate(1 / PAUSE_S))
        site.controller.kill()
        site.controller.start()
    return parsed.kills


def kill_edges(site: Site, parsed: Namespace) -> int:
    """Kill one edge server after the other."""
    for number in range(parsed.kills):
        time.sleep(random.expovariate(1 / PAUSE_S))
        edge = site.edges[number % len(site.edges)]
        edge.kill()
        edge.start()
    return parsed.kills


def cut_network(site: Site, parsed: Namespace) -> int:
    """Let nothing pass between nodes and controller for a while."""
    assert site.proxy is not None
    with site.proxy.cut():
        time.sleep(parsed.cut_s)
    return 1


def fill_disk(site: Site, parsed: Namespace) -> int:
    """Let no file of the controller grow for a while."""
    assert site.controller.process is not None
    pid = site.controller.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (FULL_BYTES, before[1]))
    try:
        time.sleep(parsed.full_s / 2)
        wait_until(lambda: site.operator.state()["store_problem"], "the controller says that its disk is full")
        time.sleep(parsed.full_s / 2)
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    return 1


def swap_policies(site: Site, parsed: Namespace) -> int:
    """Let the learned policy and sequential greedy take each other's place, each as soon as a server uses the other."""
    for number in range(parsed.swaps):
        version = 1 - number % 2
        site.operator.policy("ChangePolicy", {"do": "pin", "version": version})
        wanted = [version] if version else []
        wait_until(lambda wanted=wanted: wanted in [one["policies"] for one in there(site.operator, "edge")], "a swap")
    return parsed.swaps


def push_broken(site: Site, parsed: Namespace) -> int:
    """Push files that are damaged in all sorts of places, and return how many were refused at once."""
    files = read_policy(parsed.policy)
    rng = random.Random(0)
    refused = 0
    for number in range(parsed.files):
        damaged = dict(files)
        name = ("onnx", "sidecar")[number % 2]
        content = bytearray(files[name])
        for _ in range(1 + number):
            content[rng.randrange(len(content))] = rng.randrange(256)
        damaged[name] = bytes(content[: rng.randrange(len(content))] if number % 3 == 0 else content)
        try:
            site.operator.policy("PushPolicy", {"do": "push", **damaged})
        except UserError:
            refused += 1
    return refused


KINDS: dict[str, Callable[[Site, Namespace], int]] = {
    "controller killed": kill_controller,
    "edge servers killed": kill_edges,
    "network cut": cut_network,
    "disk full": fill_disk,
    "policies swapped": swap_policies,
    "broken files refused": push_broken,
}


def told(site: Site) -> bool:
    """Return true if every node is there and has told all its decisions."""
    nodes = [*there(site.operator, "edge"), *there(site.operator, "device")]
    complete = len(nodes) == len(site.edges) + len(site.crowd.graphs)
    return complete and not any(node["spooled"] for node in nodes)


def accounts(rows: Sequence[dict[str, Any]], store: Path) -> dict[str, int]:
    """Return how many answered requests the log lacks, and how many decisions it has twice."""
    traces: Counter[str] = Counter()
    numbers: Counter[tuple[object, ...]] = Counter()
    for one in read_experience(store):
        numbers[one["node"], one["epoch"], one.get("seq", 0)] += 1
        if not one.get("group"):  # of a device, and not of the edge server that has decided
            traces[str(one.get("traceparent", "")).split("-")[1] if one.get("traceparent") else ""] += 1
    return {
        "not in the log": sum(traces[row["trace"]] == 0 for row in rows),
        "answered twice": sum(traces[row["trace"]] > 1 for row in rows),
        "counted twice": sum(count - 1 for count in numbers.values()),
    }


def times(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return median and 99th percentile of the latencies."""
    found = np.quantile([row["latency_s"] for row in rows], (0.5, 0.99))
    return {"median_s": round(float(found[0]), 4), "p99_s": round(float(found[1]), 4)}


def main() -> None:
    """Let one kind of fault follow the other."""
    parser = options()
    parser.description = __doc__
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS], default=[*KINDS])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--cut-s", type=float, default=60.0)
    parser.add_argument("--full-s", type=float, default=60.0)
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--files", type=int, default=100)
    parsed = parser.parse_args()
    output = parsed.output or RESULTS / "nothing_lost.json"
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        site = Site(stack, parsed, (GREEDY,), lambda address: stack.enter_context(Proxy(address)))
        store = site.home / "experience.sqlite"
        with Load(site, 0) as load:
            time.sleep(parsed.round_s)
        found["calm"] = {"requests": len(load.rows), "lost": len(load.lost), **times(load.rows)}
        print("calm", found["calm"], flush=True)
        for number, kind in enumerate(parsed.kinds, 1):
            began_s = time.monotonic()
            with Load(site, number) as load:
                count = KINDS[kind](site, parsed)
                time.sleep(PAUSE_S)
            ended_s = time.monotonic()
            wait_until(lambda: told(site), f"everything is back after: {kind}")
            back_s = time.monotonic() - ended_s
            while accounts(load.rows, store)["not in the log"] and time.monotonic() - ended_s < back_s + SETTLE_S:
                time.sleep(1.0)
            counts = {"requests": len(load.rows) + len(load.lost), "lost": len(load.lost), **accounts(load.rows, store)}
            counts |= {"by the device": sum(row["by"] == "device" for row in load.rows), "why": load.lost[:3]}
            counts |= {"after a server failed": sum(row["failed"] for row in load.rows)}
            lasted = {"seconds": round(ended_s - began_s, 1), "back_s": round(back_s, 1)}
            found[kind] = {"faults": count, **counts, **times(load.rows), **lasted}
            print(kind, found[kind], flush=True)
            write(output, parsed, faults=found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

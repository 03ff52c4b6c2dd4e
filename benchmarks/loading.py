"""Measure an edge server that has memory for 5 of its 20 networks, beside one that serves 5 only, and one with all.

    python benchmarks/loading.py

The networks are MobileNetV2 twenty times, under names of their own. Requests come at random times and ask for network
k with a share in proportion to 1 / k (Zipf), at half of what one server answers with everything in memory, with a
deadline of two seconds. In each round every server gets the same requests. "loading" has `--memory-mib` for 5
networks, "fixed set" serves the 5 most popular ones and nothing else, "load all" has them all in memory. Goodput is
what is answered in time per second. A request is lost if it gets neither an answer nor a refusal that says why.
Meanwhile the memory that the server accounts for is read from its metrics.

Writes benchmarks/results/loading.json.
"""

import re
import shutil
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import harness
import numpy as np
from batching import rate_of
from open_loop import REFUSALS, Outcome, offer, poisson_times

from coinfer.demo.cluster import EdgeProcess, edges
from coinfer.graph.open_model import open_model
from coinfer.graph.segment import save_model
from coinfer.runtime.protocol.messages import InferRequest, from_array
from coinfer.runtime.protocol.protobuf import request_bytes
from coinfer.units import MIB

NETWORK = "mobilenetv2"
NETWORKS, FIT = 20, 5
LOAD = 0.5
DEADLINE_S = 2.0
LOADING, FIXED, ALL = "loading", "fixed set", "load all"


class MemoryWatch:
    """Reads what a server says of its memory, until it is stopped."""

    def __init__(self, edge: EdgeProcess):
        self.used_bytes: list[float] = []
        self.loads = 0.0
        self._url = f"http://{edge.http}/metrics"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            text = urllib.request.urlopen(self._url, timeout=30).read().decode()
            found = dict(re.findall(r"^coinfer_(memory_bytes|piece_loads_total) (\S+)$", text, re.MULTILINE))
            self.used_bytes.append(float(found["memory_bytes"]))
            self.loads = float(found["piece_loads_total"])


def rates(outcomes: list[Outcome], seconds: float) -> tuple[float, float, int]:
    """Return answers in time per second, the 99th percentile of their latency, and how many requests were lost."""
    in_time = [one.latency_s for one in outcomes if one.code == "OK" and one.latency_s <= DEADLINE_S]
    lost = sum(one.code not in ("OK", "NOT_FOUND", *REFUSALS) for one in outcomes)
    return len(in_time) / seconds, float(np.quantile(in_time or [DEADLINE_S], 0.99)), lost


def main() -> None:
    parser = harness.parser(__doc__, "loading")
    parser.add_argument("--rounds", type=int, default=7, help="rounds to measure")
    parser.add_argument("--seconds", type=float, default=15.0, help="seconds of each server in a round")
    settings = parser.parse_args()
    model, networks, count, seconds = NETWORK, NETWORKS, settings.rounds, settings.seconds
    if settings.quick:
        model, networks, count, seconds = "alexnet-cifar", 7, 1, 1.0
    rng, graph = np.random.default_rng(0), open_model(model)
    weights_bytes = sum(value.nbytes for value in graph.weights.values())
    piece_bytes = 2 * weights_bytes  # the weights, and the copy that the engine keeps
    limit_mib = -(-FIT * piece_bytes // MIB)
    x = np.zeros(graph.tensors[graph.inputs[0]].shape, np.float32)
    share = 1 / np.arange(1, networks + 1)
    with tempfile.TemporaryDirectory(prefix="coinfer-networks-") as name, ExitStack() as stack:
        files = [Path(name) / f"net{k:02d}.onnx" for k in range(networks)]
        save_model(graph, files[0])
        for file in files[1:]:
            shutil.copy(files[0], file)
        first, *others = map(str, files)
        common = ["--batch", "1", "--queue", "32"]
        more = {
            LOADING: [*others, "--memory-mib", str(limit_mib)],
            FIXED: others[: FIT - 1],
            ALL: others,
        }
        servers = {
            which: stack.enter_context(edges(first, [1.0], [*options, *common], timeout_s=600))[0]
            for which, options in more.items()
        }
        rate = LOAD * rate_of(servers[ALL].address, request_bytes(_request(files[0].stem, graph.inputs[0], x)), 2.0)
        good: dict[str, list[float]] = {which: [] for which in servers}
        slow: dict[str, list[float]] = {which: [] for which in servers}
        lost, watch = dict.fromkeys(servers, 0), MemoryWatch(servers[LOADING])
        for i in harness.rounds(count, f"{networks} networks"):
            times_s = poisson_times(rate, seconds, rng)
            chosen = rng.choice(networks, len(times_s), p=share / share.sum())
            requests = [_request(files[k].stem, graph.inputs[0], x) for k in chosen]
            messages = [request_bytes(one._replace(deadline_s=DEADLINE_S)) for one in requests]
            for j in range(len(servers)):
                which = list(servers)[(i + j) % len(servers)]
                outcomes = offer(servers[which].address, messages, times_s, 2 * DEADLINE_S)
                found = rates(outcomes, seconds)
                good[which].append(found[0])
                slow[which].append(found[1])
                lost[which] += found[2]
        time.sleep(0.3)
        watch.stop()
    figures = dict[str, harness.Figure]()
    for which in servers:
        figures[f"{networks} networks, {which}: in time per second"] = harness.figure(good[which])
        figures[f"{networks} networks, {which}: 99th percentile of these, s"] = harness.figure(slow[which])
        figures[f"{networks} networks, {which}: lost"] = harness.figure([lost[which]], at_most=0)
    for other in (FIXED, ALL):
        ratio = np.array(good[LOADING]) / np.maximum(good[other], 1e-9)
        figures[f"{networks} networks, loading over {other}: in time"] = harness.figure(ratio)
    over = max(max(watch.used_bytes) - limit_mib * MIB, 0.0) / piece_bytes
    figures[f"{networks} networks, loading: most memory over the limit, pieces"] = harness.figure([over], at_most=1)
    figures[f"{networks} networks, loading: loads"] = harness.figure([watch.loads])
    harness.save(settings, figures, limit_mib=limit_mib, rate=rate)


def _request(model: str, name: str, x: np.ndarray) -> InferRequest:
    return InferRequest(model, (from_array(name, x),))


if __name__ == "__main__":
    main()

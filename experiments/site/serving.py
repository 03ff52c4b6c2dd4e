"""Servers that batch, with memory for a few of many networks: what is it worth that dispatch knows both?

    python experiments/site/serving.py [--rounds 10] [--load 0.6] [--round-s 60] [--policy FILE]

Each scheme has a site of its own: a controller and edge servers as processes on loopback, slowed by sleeping. All
servers serve copies of one small network under names of their own and hold some of them at a time (`--memory-mib`).
Requests are Poisson, ask for networks by Zipf with ranks that move, reach a server by chance, and leave it to
them who computes. The schemes get the same requests, in turns within a round: dispatch by sequential greedy, by
`demand-greedy`, and with `--policy` by a pointer policy, pushed and pinned. `serving_model.py` plays the same requests
by the servers' rules, with the same dispatchers. The record goes to results/NAME.json after every round.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import serving_model
from crowd import compared, measures, rotated, service_s
from nodes import controller_node, decide_by, edge_node, running, there, wait_until
from worth_it import RESULTS, write

from coinfer.graph.ir import ModelGraph
from coinfer.graph.open_model import open_model
from coinfer.graph.segment import save_model
from coinfer.runtime.protocol.messages import InferReply, InferRequest, from_array
from coinfer.runtime.transport.grpc_transport import GrpcTransport
from coinfer.site.operator import Operator
from coinfer.units import MIB

SEQUENTIAL, DEMAND, POINTER = "sequential greedy", "demand-greedy", "pointer policy"
LEAD = 0.2
"""Part of a round's requests that come before it and are not counted."""
LATEST_S = 60.0


class Asked(NamedTuple):
    """A request of a round."""

    at_s: float
    network: int
    entry: int
    """Server that it reaches."""


def moments(rate_per_s: float, seconds: float, networks: int, servers: int, move_s: float, seed: int) -> list[Asked]:
    """Return the requests of a round; every `move_s` the networks take each other's ranks anew."""
    rng = np.random.default_rng(seed)
    times_s = np.cumsum(rng.exponential(1 / rate_per_s, int(2 * rate_per_s * seconds) + 20))
    times_s = times_s[times_s < seconds]
    share = 1 / np.arange(1, networks + 1)
    ranks = [rng.permutation(networks) for _ in range(int(seconds / move_s) + 1)]
    chosen = rng.choice(networks, len(times_s), p=share / share.sum())
    entries = rng.integers(servers, size=len(times_s))
    return [
        Asked(float(at_s), int(ranks[int(at_s / move_s)][rank]), int(entry))
        for at_s, rank, entry in zip(times_s, chosen, entries, strict=True)
    ]


def copies(graph: ModelGraph, count: int, folder: Path) -> list[Path]:
    """Return files of one network under many names."""
    files = [folder / f"net{k:02d}.onnx" for k in range(count)]
    save_model(graph, files[0])
    for file in files[1:]:
        shutil.copy(files[0], file)
    return files


class Site:
    """The processes of one scheme's site, until the stack is left."""

    def __init__(
        self, stack: ExitStack, parsed: argparse.Namespace, scheme: str, files: Sequence[Path], memory_mib: int
    ):
        self.home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coinfer-site-")))
        self.controller = controller_node(self.home)
        stack.enter_context(running(self.controller))
        more = ["--memory-mib", str(memory_mib), "--queue", "64", "--batch", str(parsed.batch)]
        more += ["--actor-late-ms", str(parsed.actor_late_ms)]
        more += ["--policy", "sequential-greedy"] if scheme == SEQUENTIAL else []
        self.edges = [
            edge_node(
                f"edge-{n + 1}", [str(file) for file in files], slowdown, self.controller.address, self.home, *more
            )
            for n, slowdown in enumerate(parsed.edge_slowdowns)
        ]
        stack.enter_context(running(*self.edges))
        operator = stack.enter_context(Operator(self.controller.address, None, False))
        wait_until(lambda: len(there(operator, "edge")) == len(self.edges), "all servers have joined")
        if scheme == POINTER:
            decide_by(operator, operator.push(parsed.policy)["version"], len(self.edges))
        self._operator = operator

    def decided_by(self) -> dict[str, int]:
        """Return how many decisions of the log each policy made."""
        found: dict[str, int] = {}
        for one in self._operator.experience():
            found[str(one["policy"])] = found.get(str(one["policy"]), 0) + 1
        return found


def ask(
    site: Site, requests: Sequence[InferRequest], asked: Sequence[Asked], deadline_s: float
) -> list[dict[str, Any]]:
    """Send the requests of a round, and return what came of each once all are answered."""
    transport, rows = GrpcTransport(), list[dict[str, Any]]()
    futures: list[Future[InferReply]] = []
    began_s = time.monotonic()

    def note(at_s: float, row: dict[str, Any], done: Future[InferReply]) -> None:
        row["latency_s"] = round(time.monotonic() - began_s - at_s, 4)
        error = done.exception()
        row["failed"], row["by"] = error is not None, "server"
        row["in_time"] = error is None and row["latency_s"] <= deadline_s
        if error is None:
            row["server_s"] = done.result().server_s

    for one in asked:
        time.sleep(max(began_s + one.at_s - time.monotonic(), 0.0))
        row: dict[str, Any] = {"at_s": round(one.at_s, 3), "network": one.network}
        sent = transport.send(site.edges[one.entry].address, requests[one.network], LATEST_S)
        sent.add_done_callback(lambda done, at_s=one.at_s, row=row: note(at_s, row, done))
        futures.append(sent)
        rows.append(row)
    for future in futures:
        future.exception(2 * LATEST_S)
    wait_until(lambda: all("in_time" in row for row in rows), "all answers are noted")
    transport.close()
    return rows


def load_seconds(address: str, requests: Sequence[InferRequest]) -> float:
    """Return what a server takes to load one of more networks than it holds: asked in turn, each is gone again."""
    with closing(GrpcTransport()) as transport:
        waits_s = [
            transport.send(address, one._replace(dispatch=False), LATEST_S).result().queue_s for one in [*requests] * 2
        ]
    return float(np.median(waits_s[len(requests) :]))


def options() -> argparse.ArgumentParser:
    """Return the options of the experiment."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--network", default="mobilenetv2")
    made.add_argument("--networks", type=int, default=10, help="copies of it")
    made.add_argument("--fit", type=int, default=2, help="copies that a server's memory holds")
    made.add_argument("--edge-slowdowns", type=float, nargs="+", default=[4.0, 4.0, 4.0])
    made.add_argument("--batch", type=int, default=8, help="largest batch")
    made.add_argument("--load", type=float, default=0.6, help="of what the servers compute one by one")
    made.add_argument("--move-s", type=float, default=15.0, help="ranks change so often")
    made.add_argument("--deadline-s", type=float, default=2.0)
    made.add_argument("--actor-late-ms", type=float, default=100.0)
    made.add_argument("--policy", type=Path, default=None, help="pointer policy, as `coinfer train pointer` writes it")
    made.add_argument("--rounds", type=int, default=10)
    made.add_argument("--round-s", type=float, default=60.0)
    made.add_argument("--output", type=Path, default=RESULTS / "serving.json")
    return made


def main() -> None:
    """Play all schemes in turns, and keep what came of it beside what the model says."""
    parsed = options().parse_args()
    graph = open_model(parsed.network)
    piece_bytes = 2 * sum(
        value.nbytes for value in graph.weights.values()
    )  # weights, and the copy that the engine keeps
    memory_mib = -(-parsed.fit * piece_bytes // MIB)
    schemes = [SEQUENTIAL, DEMAND, *([POINTER] if parsed.policy else [])]
    rounds: dict[str, list[dict[str, float]]] = {scheme: [] for scheme in schemes}
    modelled: dict[str, list[float]] = {scheme: [] for scheme in (SEQUENTIAL, DEMAND)}
    x = np.zeros(graph.tensors[graph.inputs[0]].shape, np.float32)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coinfer-networks-")))
        files = copies(graph, parsed.networks, folder)
        sites = {scheme: Site(stack, parsed, scheme, files, memory_mib) for scheme in schemes}
        requests = [InferRequest(file.stem, (from_array(graph.inputs[0], x),), dispatch=True) for file in files]
        named = [open_model(str(file)) for file in files[:1]]
        alone_s = [service_s(named[0], edge.address) for edge in sites[SEQUENTIAL].edges]
        rate_per_s = parsed.load * sum(1 / one for one in alone_s)
        load_s = load_seconds(sites[SEQUENTIAL].edges[0].address, requests)
        world = serving_model.World(alone_s, load_s, parsed.networks, piece_bytes, memory_mib * MIB)
        for number in range(parsed.rounds):
            seconds = (1 + LEAD) * parsed.round_s
            asked = moments(rate_per_s, seconds, parsed.networks, len(alone_s), parsed.move_s, number)
            for scheme in rotated(schemes, number):
                rows = ask(sites[scheme], requests, asked, parsed.deadline_s)
                rounds[scheme].append(measures([row for row in rows if row["at_s"] >= LEAD * parsed.round_s]))
                print(number, scheme, rounds[scheme][-1], flush=True)
            for scheme, own in modelled.items():
                own.append(world.mean_s(asked, LEAD * parsed.round_s, by_demand=scheme == DEMAND))
            summary = {
                **compared(rounds, SEQUENTIAL),
                "model": {scheme: float(np.mean(own)) for scheme, own in modelled.items()},
            }
            decided = {scheme: site.decided_by() for scheme, site in sites.items()}
            write(
                parsed.output,
                parsed,
                service_s=alone_s,
                load_s=load_s,
                summary=summary,
                rounds=rounds,
                modelled=modelled,
                decided=decided,
            )
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()

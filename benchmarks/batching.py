"""Measure an edge server that batches beside one that does not, and beside MLServer's adaptive batching.

    python benchmarks/batching.py [--models alexnet] [--mixed 100000]

Each has one thread that computes. In each round every server gets requests at random times, at 0.5, 1 and 3 times what
the server without batches answers with four requests always open (measured in the same round), for some seconds, with
a deadline of eight times the time of one answer. Goodput is what is answered in time per second; ratios are of one
round. Then requests of a small network, 5 % of them bad in one of several ways, go to a server that batches, 48 at a
time, and every answer is compared with what the network says alone.

MLServer is installed into an environment of its own as by `throughput.py`; without it the rest is measured. Writes
benchmarks/results/batching.json.
"""

import math
import time
from contextlib import ExitStack

import harness
import numpy as np
from open_loop import in_flight, offer, poisson_times
from throughput import Unavailable, mlserver

from coinfer.demo.cluster import edges
from coinfer.graph.ir import ModelGraph
from coinfer.graph.open_model import open_model
from coinfer.profile.samples import random_samples
from coinfer.runtime.codec.tensors import pack, unpack
from coinfer.runtime.executor import Executor
from coinfer.runtime.protocol.messages import InferRequest, WireTensor, from_array
from coinfer.runtime.protocol.protobuf import parse_reply, request_bytes

MODELS = ("alexnet", "mobilenetv2", "nin")
LOADS = (0.5, 1.0, 3.0)
LOSES_AT_MOST = 0.98
MIXED = "alexnet-cifar"
BAD_SHARE = 0.05
TOLERANCE = 1e-4
IMAGES = 32
BATCH = 8
UNBATCHED, BATCHED, MLSERVER = "alone", "batched", "MLServer"


def message_of(graph: ModelGraph, deadline_s: float = math.inf) -> bytes:
    """Return a request for the whole network."""
    name = graph.inputs[0]
    x = dict(random_samples(graph)[0])[name]
    return request_bytes(InferRequest(graph.name, (from_array(name, x),), deadline_s=deadline_s))


def rate_of(address: str, message: bytes, seconds: float) -> float:
    """Return answers per second with four requests always open."""
    sent, began_s = 0, time.perf_counter()
    while time.perf_counter() - began_s < seconds:
        sent += len(in_flight(address, [message] * 8, 4))
    return sent / (time.perf_counter() - began_s)


def compare(
    graph: ModelGraph, servers: dict[str, str], count: int, seconds: float, rng: np.random.Generator
) -> dict[str, harness.Figure]:
    """Return goodput and latency of every server at each load, and what batches gain."""
    plain = message_of(graph)
    for address in servers.values():
        rate_of(address, plain, seconds / 4)
    good: dict[tuple[str, float], list[float]] = {(name, load): [] for name in servers for load in LOADS}
    mean = {key: list[float]() for key in good}
    for i in harness.rounds(count, graph.name):
        rate = rate_of(servers[UNBATCHED], plain, seconds / 2)
        deadline_s = 8 / rate
        message = message_of(graph, deadline_s)
        for load in LOADS:
            times_s = poisson_times(load * rate, seconds, rng)
            for j in range(len(servers)):
                name = list(servers)[(i + j) % len(servers)]
                outcomes = offer(servers[name], [message] * len(times_s), times_s, deadline_s)
                in_time = [one.latency_s for one in outcomes if one.code == "OK" and one.latency_s <= deadline_s]
                good[name, load].append(len(in_time) / seconds)
                mean[name, load].append(float(np.mean(in_time or [deadline_s])))
    found = dict[str, harness.Figure]()
    for load in LOADS:
        where = f"{graph.name}, {load:g} times the load"
        alone = np.maximum(good[UNBATCHED, load], 1e-9)
        for name in servers:
            found[f"{where}: {name}, in time per second"] = harness.figure(good[name, load])
            found[f"{where}: {name}, mean latency of these, ms"] = harness.figure(np.array(mean[name, load]) * 1e3)
        ratio = harness.figure(np.array(good[BATCHED, load]) / alone, at_least=LOSES_AT_MOST)
        found[f"{where}: batched over alone, in time"] = ratio
        slower = np.array(mean[BATCHED, load]) / np.array(mean[UNBATCHED, load])
        bar = 2 - LOSES_AT_MOST if load < 1 else None  # under overload more is answered in time, later
        found[f"{where}: batched over alone, latency"] = harness.figure(slower, at_most=bar)
        if MLSERVER in servers and min(good[MLSERVER, load]) > 0:
            over = np.array(good[BATCHED, load]) / np.array(good[MLSERVER, load])
            found[f"{where}: batched over MLServer, in time"] = harness.figure(over)
    return found


class Mixed:
    """Requests of which some are bad, and what is right for each."""

    def __init__(self, graph: ModelGraph, count: int, rng: np.random.Generator):
        self.graph, self.name = graph, graph.inputs[0]
        shape = graph.tensors[self.name].shape
        self.images = [rng.standard_normal(shape).astype(np.float32) for _ in range(IMAGES)]
        executor = Executor(graph)
        self.answers = [executor.run({self.name: x})[0][graph.outputs[0]] for x in self.images]
        self.image = rng.integers(IMAGES, size=count)
        self.bad = np.where(rng.random(count) < BAD_SHARE, rng.integers(4, size=count), -1)
        self.bits = rng.choice([0, 32, 16], size=count)

    def message(self, k: int) -> bytes:
        """Return request k."""
        x, bits = self.images[self.image[k]], int(self.bits[k]) or None
        tensor, outputs = pack(self.name, x, bits), self.graph.outputs
        match self.bad[k]:
            case 0:
                tensor = from_array(self.name, x[:, :, :-1])
            case 1:
                tensor = from_array(self.name, x.astype(np.float64))
            case 2:
                damaged = bytes(pack(self.name, x, 32).data)[:-9]
                tensor = WireTensor(self.name, "UINT8", (len(damaged),), damaged, codec=True)
            case 3:
                outputs = ("no such tensor",)
            case _:
                pass
        return request_bytes(InferRequest(self.graph.name, (tensor,), outputs, str(k), bits=bits))

    def problem(self, k: int, code: str, reply: bytes) -> str:
        """Return what is wrong with the answer to request k; empty if nothing is."""
        if self.bad[k] >= 0:
            return "" if code == "INVALID_ARGUMENT" else f"a bad request got {code}"
        if code != "OK":
            return code
        answer = parse_reply(reply)
        right, got = self.answers[self.image[k]], unpack(answer.outputs[0])
        tolerance = TOLERANCE if self.bits[k] != 16 else 2e-2  # 16 bits round inputs and outputs
        if answer.id != str(k):
            return "mixed up"
        return "" if np.abs(got - right).max() <= tolerance * np.abs(right).max() else "wrong"


def mixed_figures(count: int, rng: np.random.Generator) -> tuple[dict[str, harness.Figure], dict[str, int]]:
    """Return how many requests of a mixed load got something else than what is right, and how many ran together."""
    mixed, problems, together = Mixed(open_model(MIXED), count, rng), dict[str, int](), 0
    with edges(MIXED, [1.0], ["--http-port", "-1", "--queue", "64", "--batch", str(BATCH)]) as [edge]:
        for start in harness.rounds(math.ceil(count / 1000), f"{MIXED}, mixed"):
            numbers = range(1000 * start, min(1000 * (start + 1), count))
            outcomes = in_flight(edge.address, [mixed.message(k) for k in numbers], 48)
            for k, outcome in zip(numbers, outcomes, strict=True):
                if problem := mixed.problem(k, outcome.code, outcome.reply):
                    problems[problem] = problems.get(problem, 0) + 1
                together += b"batch" in outcome.reply
    wrong = harness.figure([sum(problems.values())], at_most=0)
    share = harness.figure([together / count])
    about = f"{count:,} mixed requests, 5 % bad"
    return {f"{about}: wrong, mixed up or lost": wrong, f"{about}: share that ran in batches": share}, problems


def main() -> None:
    parser = harness.parser(__doc__, "batching")
    parser.add_argument("--models", nargs="+", default=MODELS, help="ONNX files or zoo networks")
    parser.add_argument("--rounds", type=int, default=9, help="rounds to measure")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds of each load in a round")
    parser.add_argument("--mixed", type=int, default=100_000, help="mixed requests; 0 leaves them out")
    parser.add_argument("--without-mlserver", action="store_true", help="leave out MLServer")
    settings = parser.parse_args()
    models, count, seconds, mixed = settings.models, settings.rounds, settings.seconds, settings.mixed
    if settings.quick:
        models, count, seconds, mixed = ["alexnet-cifar"], 1, 0.3, 200
    rng, figures, skipped = np.random.default_rng(0), dict[str, harness.Figure](), ""
    for model in models:
        graph = open_model(model)
        with ExitStack() as stack:
            servers = dict[str, str]()
            for name, batch in ((UNBATCHED, 1), (BATCHED, BATCH)):
                [edge] = stack.enter_context(edges(model, [1.0], ["--http-port", "-1", "--batch", str(batch)]))
                servers[name] = edge.address
            try:
                if settings.quick or settings.without_mlserver:
                    raise Unavailable("not asked for")
                batching = {"max_batch_size": BATCH, "max_batch_time": 0.005}
                servers[MLSERVER] = stack.enter_context(mlserver([graph], batching))
            except Unavailable as problem:
                skipped = f"MLServer is not measured: {problem}"
                harness.CONSOLE.print(skipped)
            figures |= compare(graph, servers, count, seconds, rng)
    problems = dict[str, int]()
    if mixed:
        found, problems = mixed_figures(mixed, rng)
        figures |= found
    harness.save(settings, figures, keep=settings.models != MODELS, skipped=skipped, problems=problems)


if __name__ == "__main__":
    main()

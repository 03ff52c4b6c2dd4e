"""Measure the throughput of one edge server on whole networks, and of a bare ONNX Runtime loop and MLServer.

    python benchmarks/throughput.py [--models mobilenetv2]

Each has one thread that computes. In each round the bare loop (`session.run` in this process), `coinfer edge` and
MLServer work for some seconds, one after another. The servers get the same float32 requests of the Open Inference
Protocol over gRPC, already serialised, a few in flight at a time, from the same client in this process. The bar is on
the server's rate relative to that of the bare loop in the same round.

This script installs MLServer from PyPI into an environment of its own, `.venv-mlserver`; if that fails, the rest is
measured without it. Writes benchmarks/results/throughput.json.
"""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType

import grpc
import harness
import numpy as np
import onnxruntime
from tritonclient.grpc import service_pb2

from coinfer.demo.cluster import edges
from coinfer.graph.ir import ModelGraph
from coinfer.graph.open_model import open_model
from coinfer.graph.segment import save_model, segment
from coinfer.graph.session import open_session
from coinfer.profile.samples import random_samples
from coinfer.runtime.malloc import keep_freed_memory
from coinfer.runtime.protocol.messages import InferRequest, from_array
from coinfer.runtime.protocol.protobuf import request_bytes
from coinfer.runtime.transport.grpc_transport import SERVICE

BAR = 0.95
MODELS = ("resnet50", "mobilenetv2")
IN_FLIGHT = 4
MLSERVER = "mlserver==1.7.1"
ENVIRONMENT = Path(__file__).resolve().parent.parent / ".venv-mlserver"
RUNTIME = Path(__file__).resolve().parent / "mlserver_runtime.py"
START_S = 60.0


class Unavailable(Exception):
    """MLServer cannot be measured here; the message says why."""


def bare_loop(graph: ModelGraph, x: np.ndarray) -> Callable[[float], float]:
    """Return a function that measures runs of the whole network per second, over a number of seconds."""
    session = open_session(graph, segment(graph, graph.inputs, graph.outputs))
    feed = {graph.inputs[0]: x}

    def rate(duration_s: float) -> float:
        began_s, runs = time.perf_counter(), 0
        while time.perf_counter() - began_s < duration_s:
            session.run(None, feed)
            runs += 1
        return runs / (time.perf_counter() - began_s)

    return rate


def client(address: str, message: bytes, in_flight: int) -> Callable[[float], float]:
    """Return a function that measures answered requests per second, with a number always in flight."""
    channel = grpc.insecure_channel(address)
    call = channel.unary_unary(f"/{SERVICE}/ModelInfer")

    def rate(duration_s: float) -> float:
        answered, lock = [0], threading.Lock()
        end_s = time.perf_counter() + duration_s

        def work() -> None:
            while time.perf_counter() < end_s:
                call(message, timeout=30)
                with lock:
                    answered[0] += 1

        threads = [threading.Thread(target=work) for _ in range(in_flight)]
        began_s = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answered[0] / (time.perf_counter() - began_s)

    return rate


def answer_of(address: str, message: bytes) -> np.ndarray:
    """Return the first output of a reply, to check that both servers compute the same."""
    with grpc.insecure_channel(address) as channel:
        reply = service_pb2.ModelInferResponse.FromString(channel.unary_unary(f"/{SERVICE}/ModelInfer")(message))
    return np.frombuffer(reply.raw_output_contents[0], np.float32)


def mlserver_environment() -> Path:
    """Return the folder of programs of an environment with MLServer and our version of ONNX Runtime.

    Raises:
        Unavailable: if it cannot be installed.
    """
    programs = ENVIRONMENT / "bin"
    if (programs / "mlserver").exists():
        return programs
    wanted = [MLSERVER, f"onnxruntime=={onnxruntime.__version__}"]
    with harness.CONSOLE.status(f"installing {MLSERVER} into {ENVIRONMENT.name}"):
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)],
            [str(programs / "pip"), "install", "--quiet", "--disable-pip-version-check", *wanted],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise Unavailable(f"{MLSERVER} could not be installed: {said}")
    return programs


@contextmanager
def mlserver(graphs: Sequence[ModelGraph], batching: Mapping[str, float] = MappingProxyType({})) -> Iterator[str]:
    """Yield the gRPC address of an MLServer with these networks, in one process (its own default of a worker process is
    slower, as it copies every tensor between the two).

    Args:
        batching: settings of its adaptive batching.
    """
    programs = mlserver_environment()
    ports = free_ports(3)
    with tempfile.TemporaryDirectory(prefix="coinfer-mlserver-") as name, ExitStack() as stack:
        folder = Path(name)
        shutil.copy(RUNTIME, folder)
        settings = dict(zip(("grpc_port", "http_port", "metrics_port"), ports, strict=True))
        settings |= {"host": "127.0.0.1", "parallel_workers": 0, "debug": False}
        (folder / "settings.json").write_text(json.dumps(settings))
        for graph in graphs:
            own = folder / graph.name
            own.mkdir()
            save_model(graph, own / "model.onnx")
            implementation, uri = f"{RUNTIME.stem}.OnnxModel", str(own / "model.onnx")
            model = {"name": graph.name, "implementation": implementation, "parameters": {"uri": uri}, **batching}
            (own / "model-settings.json").write_text(json.dumps(model))
        log = stack.enter_context((folder / "log").open("w+"))
        environment = {"PYTHONPATH": str(folder), "PATH": f"{programs}:/usr/bin:/bin", "HOME": str(folder)}
        command = [str(programs / "mlserver"), "start", str(folder)]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
        try:
            wait_ready(process, f"127.0.0.1:{ports[0]}", [graph.name for graph in graphs], folder / "log")
            yield f"127.0.0.1:{ports[0]}"
        finally:
            process.terminate()
            process.wait(10)


def wait_ready(process: subprocess.Popen[bytes], address: str, models: Sequence[str], log: Path) -> None:
    """Wait until the server says that all models are ready."""
    questions = [service_pb2.ModelReadyRequest(name=model).SerializeToString() for model in models]
    for _ in range(int(START_S * 10)):
        time.sleep(0.1)
        if process.poll() is not None:
            break
        try:
            with grpc.insecure_channel(address) as channel:
                for question in questions:
                    channel.unary_unary(f"/{SERVICE}/ModelReady")(question, timeout=1)
            return
        except grpc.RpcError:
            continue
    said = (log.read_text().strip().splitlines() or ["nothing"])[-1]
    raise Unavailable(f"MLServer did not start; it said: {said}")


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listened on a moment ago."""
    with ExitStack() as stack:
        return [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]


def main() -> None:
    parser = harness.parser(__doc__, "throughput")
    parser.add_argument("--models", nargs="+", default=MODELS, help="ONNX files or zoo networks")
    parser.add_argument("--rounds", type=int, default=15, help="rounds to measure")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of work for each in a round")
    parser.add_argument("--in-flight", type=int, default=IN_FLIGHT, help="requests at a time")
    parser.add_argument("--without-mlserver", action="store_true", help="leave out MLServer")
    settings = parser.parse_args()
    models, count, duration_s = settings.models, settings.rounds, settings.seconds
    if settings.quick:
        models, count, duration_s = ["nin"], 2, 0.2
    keep_freed_memory()
    graphs = [open_model(model) for model in models]
    figures, skipped = dict[str, harness.Figure](), ""
    with ExitStack() as stack:
        [edge] = stack.enter_context(edges(models[0], [1.0], [*models[1:], "--http-port", "-1"]))
        servers = {"coinfer": edge.address}
        try:
            if settings.quick or settings.without_mlserver:
                raise Unavailable("not asked for")
            servers["MLServer"] = stack.enter_context(mlserver(graphs))
        except Unavailable as problem:
            skipped = f"MLServer is not measured: {problem}"
            harness.CONSOLE.print(skipped)
        for graph in graphs:
            figures |= compare(graph, servers, count, duration_s, settings.in_flight)
    keep = settings.models != MODELS
    harness.save(settings, figures, keep=keep, in_flight=settings.in_flight, skipped=skipped)


def compare(
    graph: ModelGraph, servers: dict[str, str], count: int, duration_s: float, in_flight: int
) -> dict[str, harness.Figure]:
    """Return the rates of a network, and the servers' relative to the bare loop's."""
    x = dict(random_samples(graph)[0])[graph.inputs[0]]
    message = request_bytes(InferRequest(graph.name, (from_array(graph.inputs[0], x),)))
    answers = [answer_of(address, message) for address in servers.values()]
    assert all(np.allclose(answer, answers[0], rtol=1e-3, atol=1e-4) for answer in answers), "servers disagree"
    ways = {"bare loop": bare_loop(graph, x)}
    ways |= {name: client(address, message, in_flight) for name, address in servers.items()}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way(duration_s / 4)
    names = list(ways)
    for i in harness.rounds(count, graph.name):
        for j in range(len(names)):
            name = names[(i + j) % len(names)]
            rates[name].append(ways[name](duration_s))
    found = {f"{graph.name}: {name}, requests/s": harness.figure(rate) for name, rate in rates.items()}
    for name in servers:
        share = np.array(rates[name]) / np.array(rates["bare loop"])
        bar = BAR if name == "coinfer" else None
        found[f"{graph.name}: {name} over bare loop"] = harness.figure(share, at_least=bar)
    return found


if __name__ == "__main__":
    main()

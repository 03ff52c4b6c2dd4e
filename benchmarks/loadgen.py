"""Drive a device and a gateway by MLPerf's LoadGen, unofficially: four scenarios, each to a run that it calls VALID.

    pip install mlcommons-loadgen
    python benchmarks/loadgen.py [--model alexnet-cifar --seconds 10]

The system under test is `Device.infer_async` in process, or a gateway in a process of its own, over gRPC. Servers and
links are left out: the figures are those of this machine alone. Single stream and multi-stream (8 samples) report the
90th and 99th percentile of latency, server a rate at which 99 % are in time (`--target-ms`): the first of 60, 40 and
20 % of what one sample after the other would give; offline the samples per second. They are no MLPerf results: the runs
are short, the samples random, and nobody has audited them. Writes benchmarks/results/loadgen.json.
"""

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import harness
import numpy as np
from gateway import GATEWAY
from tensors import start

import coinfer
from coinfer.profile.samples import random_samples
from coinfer.runtime.protocol.messages import InferRequest, from_array
from coinfer.runtime.transport.grpc_transport import GrpcTransport, client_options
from coinfer.units import MILLI

SAMPLES, CONCURRENCY = 64, 8
SHARES = {"SingleStream": (1.0,), "MultiStream": (1.0,), "Server": (0.6, 0.4, 0.2), "Offline": (1.0,)}
"""Of the rate of one sample after the other, with which a scenario is tried until LoadGen calls its run VALID."""
FIGURES = {
    "SingleStream": (r"th percentile latency \(ns\) *: (\d+)", "latency at 90 %, ms", 1e-6),
    "MultiStream": (r"th percentile latency \(ns\) *: (\d+)", "latency of 8 at 99 %, ms", 1e-6),
    "Server": (r"Completed samples per second *: ([\d.]+)", "samples per second in time", 1.0),
    "Offline": (r"Samples per second *: ([\d.]+)", "samples per second", 1.0),
}
"""Where LoadGen's summary has the figure of a scenario, what it is, and the factor to its unit."""
Infer = Callable[[np.ndarray], Awaitable[object]]


class SystemUnderTest:
    """Answers LoadGen's queries on an event loop of its own, a few at the same time, and reports each as it ends.

    Args:
        loadgen: the module.
        infer: answers one sample.
        samples: chosen by their index.
    """

    def __init__(self, loadgen: Any, infer: Infer, samples: Sequence[np.ndarray]):
        self._loadgen, self._infer, self._samples = loadgen, infer, samples
        self._loop = asyncio.new_event_loop()
        self._places = asyncio.Semaphore(CONCURRENCY)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def issue(self, queries: Sequence[Any]) -> None:
        """Begin to answer queries; LoadGen calls this."""
        for query in queries:
            asyncio.run_coroutine_threadsafe(self._answer(query.id, self._samples[query.index]), self._loop)

    async def _answer(self, id: int, sample: np.ndarray) -> None:
        async with self._places:
            await self._infer(sample)
        self._loadgen.QuerySamplesComplete([self._loadgen.QuerySampleResponse(id, 0, 0)])

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def run(loadgen: Any, infer: Infer, samples: Sequence[np.ndarray], settings: Any) -> str:
    """Return LoadGen's summary of a run."""
    system = SystemUnderTest(loadgen, infer, samples)
    nothing: Callable[[object], None] = lambda _: None  # noqa: E731
    sut = loadgen.ConstructSUT(system.issue, lambda: None)
    library = loadgen.ConstructQSL(len(samples), len(samples), nothing, nothing)
    try:
        with TemporaryDirectory() as folder:
            log = loadgen.LogSettings()
            log.log_output.outdir = folder
            log.enable_trace = False
            loadgen.StartTestWithLogSettings(sut, library, settings, log)
            return (Path(folder) / "mlperf_log_summary.txt").read_text()
    finally:
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(sut)
        system.close()


def settings_of(loadgen: Any, scenario: str, asked: Any, sample_s: float, share: float) -> Any:
    """Return the settings of a run, from the time that a sample takes."""
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(asked.seconds / MILLI)
    settings.min_query_count = {"SingleStream": 100, "Offline": 1}.get(scenario, 700)  # LoadGen asks for 64, 1, 662
    settings.single_stream_expected_latency_ns = settings.multi_stream_expected_latency_ns = round(sample_s * 1e9)
    settings.multi_stream_samples_per_query = 8
    settings.server_target_latency_ns = round(asked.target_ms * 1e6)
    settings.server_target_qps = share / sample_s
    settings.offline_expected_qps = 4 / sample_s  # a run that is shorter than the least duration is not valid
    if asked.quick:  # the median needs few queries
        settings.min_query_count = 30
        settings.single_stream_target_latency_percentile = settings.multi_stream_target_latency_percentile = 0.5
        settings.server_target_latency_percentile = 0.5
    return settings


@contextmanager
def device(model: str) -> Any:
    """Yield what answers a sample in this process."""
    with coinfer.Device(model) as device:
        yield device.infer_async


@contextmanager
def gateway(model: str) -> Any:
    """Yield what asks a gateway, which is a process of its own."""
    process, address = start(GATEWAY.format(models=(model,)))
    transport = GrpcTransport(options=client_options(patience_s=60.0))
    (name,) = coinfer.open_model(model).inputs

    def ask(sample: np.ndarray) -> Awaitable[object]:
        request = InferRequest(model, (from_array(name, sample),))
        return asyncio.wrap_future(transport.send(address, request, 60.0))

    try:
        yield ask
    finally:
        transport.close()
        process.terminate()
        process.wait()


def measure(loadgen: Any, system: str, infer: Infer, samples: Sequence[np.ndarray], asked: Any) -> dict[str, Any]:
    """Return the figure of each scenario; a run that is not VALID has none."""
    figures = dict[str, harness.Figure]()
    sample_s = timed(infer, samples[0])
    for scenario, shares in SHARES.items():
        for share in shares:
            summary = run(loadgen, infer, samples, settings_of(loadgen, scenario, asked, sample_s, share))
            if "Result is : VALID" in summary:
                break
        else:
            raise SystemExit(f"{asked.model}, {system}, {scenario}: no valid run\n{summary}")
        pattern, what, factor = FIGURES[scenario]
        found = re.search(pattern, summary)
        assert found is not None, summary
        value = float(found[1]) * factor
        figures[f"{asked.model}, {system}, {scenario} (VALID): {what}"] = harness.figure(np.array([value]))
    return figures


def timed(infer: Infer, sample: np.ndarray, runs: int = 9) -> float:
    """Return the median seconds of a sample by itself."""

    async def ask() -> float:
        loop, took_s = asyncio.get_running_loop(), list[float]()
        for _ in range(runs):
            began_s = loop.time()
            await infer(sample)
            took_s.append(loop.time() - began_s)
        return float(np.median(took_s))

    return asyncio.run(ask())


def main() -> None:
    parser = harness.parser(__doc__, "loadgen")
    parser.add_argument("--model", default="alexnet-cifar", help="an ONNX file or a zoo network with one input")
    parser.add_argument("--seconds", type=float, default=10.0, help="least duration of each run")
    parser.add_argument("--target-ms", type=float, default=100.0, help="latency that 99 %% of `Server` must keep")
    asked = parser.parse_args()
    try:
        import mlperf_loadgen as loadgen
    except ImportError:
        raise SystemExit("LoadGen is not installed: pip install mlcommons-loadgen") from None
    if asked.quick:
        asked.seconds, asked.target_ms = 0.3, 60_000.0
    (name,) = coinfer.open_model(asked.model).inputs
    random = np.random.default_rng(0)
    first = np.asarray(random_samples(coinfer.open_model(asked.model))[0][name])
    samples = [random.permuted(first, axis=-1) for _ in range(SAMPLES)]
    figures = dict[str, harness.Figure]()
    for system in (device, gateway):
        with system(asked.model) as infer:
            figures |= measure(loadgen, system.__name__, infer, samples, asked)
    harness.save(asked, figures)


if __name__ == "__main__":
    main()

"""A device behind shaped links on real edges: transfers take what the link allows, estimates find its rate, answers
stay right. `COINFER_DATA` names a folder with `traces/*.csv.gz`; one trace of each file there is tried too."""

import collections
import csv
import gzip
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from tests.e2e.sites import Edge, edges, relative_error, wait_until
from tests.patience import one_round_right, patient_transport
from tests.tables import analytic_table

from coinfer.graph.ir import ModelGraph
from coinfer.graph.zoo import networks
from coinfer.options.compile import compile_options
from coinfer.options.table import Options
from coinfer.profile.table import ProfileTable
from coinfer.resources import TRACES
from coinfer.runtime.clock import WallClock
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.planning.observation import least_latency
from coinfer.runtime.device.result import Result
from coinfer.runtime.emulation.links import Link
from coinfer.runtime.executor import Executor
from coinfer.traces import Trace
from coinfer.types import OffloadDecision, OffloadObservation, Policy
from coinfer.units import BITS_PER_BYTE

MEASURED = 6
USED_S = 120.0
BURST_BITS = 3200 * BITS_PER_BYTE
FOLDER = Path(os.environ.get("COINFER_DATA", "nowhere")) / "traces"
REAL = sorted(FOLDER.glob("*.csv.gz"))


class Network(NamedTuple):
    """A network, what a device may do with it, and inputs with their exact answers."""

    graph: ModelGraph
    table: ProfileTable
    options: Options
    items: list[np.ndarray]
    exact: list[np.ndarray]

    def device(self, links: Mapping[str, Link], slowdown: float = 10.0, hedge: bool = False, **settings: Any) -> Device:
        return Device(
            self.graph,
            servers=list(links),
            profile=self.table,
            options=self.options,
            links=links,
            slowdown=slowdown,
            hedge=hedge,
            transport=patient_transport(),
            **settings,
        )

    def answers(self, device: Device, count: int, policy: Policy | None = None) -> list[Result]:
        """Right ones."""
        results = [device.infer(self.items[i % len(self.items)], policy=policy) for i in range(count)]
        for i, result in enumerate(results):
            assert relative_error(result.output, self.exact[i % len(self.exact)]) <= 1e-4
        return results


def network(name: str, whole_s: float) -> Network:
    """Its input is sent as it is, or all stays on the device."""
    graph = networks.build(name)
    table, rng, executor = analytic_table(graph, whole_s), np.random.default_rng(0), Executor(graph)
    options = compile_options(graph, table, (32,))
    ends = np.array([options.cuts.index(graph.inputs), len(options.cuts) - 1])
    shape = graph.tensors[graph.inputs[0]].shape
    items = [rng.standard_normal(shape, dtype=np.float32) for _ in range(3)]
    exact = [executor.run({graph.inputs[0]: item})[0][graph.outputs[0]] for item in items]
    return Network(graph, table, options.take(ends), items, exact)


@pytest.fixture(scope="module")
def wide() -> Network:
    """4.8 Mbit of input."""
    return network("googlenet", 0.02)


@pytest.fixture(scope="module")
def small() -> Network:
    """98 kbit of input."""
    return network("alexnet-cifar", 5e-4)


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Edge]]:
    with edges(["googlenet", "alexnet-cifar"], [()] * 3) as running:
        yield running


def sends_input_to(server: int) -> Policy:
    return lambda _: OffloadDecision(np.array([0]), np.array([server]))


def must_send(seen: OffloadObservation) -> OffloadDecision:
    return least_latency(seen._replace(option_mask=np.array([[True, False]])))


class Transfer(NamedTuple):
    """On the link's own time."""

    began_s: float
    ended_s: float
    size_bits: float
    was_idle: bool
    """True where the link had nothing else to carry."""


class NotedClock(WallClock):
    """Knows the first moment that it told: a link's time 0."""

    first_s: float | None = None

    def now_s(self) -> float:
        now_s = super().now_s()
        if self.first_s is None:
            self.first_s = now_s
        return now_s


class NotedLink(Link):
    """Keeps a record of what it carried."""

    def __init__(self, trace: Trace):
        clock = NotedClock()
        super().__init__(trace, clock)
        assert clock.first_s is not None
        self.zero_s: float = clock.first_s
        self.transfers: list[Transfer] = []
        self._busy = 0
        self._count = threading.Lock()

    def transmit(self, size_bits: float, cancel: threading.Event | None = None) -> float:
        with self._count:
            was_idle, self._busy = self._busy == 0, self._busy + 1
        began_s = time.monotonic() - self.zero_s
        try:
            took_s = super().transmit(size_bits, cancel)
            self.transfers.append(Transfer(began_s, time.monotonic() - self.zero_s, size_bits, was_idle))
            return took_s
        finally:
            with self._count:
                self._busy -= 1


Capacity = Callable[[float], float]
"""Bits that a link may have carried by a moment."""


def capacity_of(path: Path, trace_id: str) -> Capacity:
    """From the file's rows, by other means than the link's."""
    with gzip.open(path, "rt", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["trace_id"] == trace_id]
    starts_s = np.array([float(row["time_s"]) for row in rows])
    rates_bps = np.array([float(row["throughput_bytes_per_s"]) for row in rows]) * BITS_PER_BYTE
    ends_s = np.append(starts_s[1:], 2 * starts_s[-1] - starts_s[-2]) - starts_s[0]
    carried = np.concatenate([[0.0], np.cumsum(rates_bps * np.diff(np.concatenate([[0.0], ends_s])))])

    def bits(time_s: float) -> float:
        turns, rest_s = divmod(time_s, ends_s[-1])
        return turns * carried[-1] + float(np.interp(rest_s, np.concatenate([[0.0], ends_s]), carried))

    return bits


def assert_never_faster(link: NotedLink, capacity: Capacity) -> None:
    """No transfer and no row of transfers brings more than the link could carry, beyond one burst."""
    assert link.transfers
    for transfer in link.transfers:
        assert transfer.size_bits <= capacity(transfer.ended_s) - capacity(transfer.began_s) + BURST_BITS + 1
    first_s = min(transfer.began_s for transfer in link.transfers)
    carried = 0.0
    for transfer in sorted(link.transfers, key=lambda found: found.ended_s):
        carried += transfer.size_bits
        assert carried <= capacity(transfer.ended_s) - capacity(first_s) + BURST_BITS + 1


def surplus_of(transfer: Transfer, capacity: Capacity) -> float:
    """How many times its own bits the link could have carried meanwhile."""
    return (capacity(transfer.ended_s) - capacity(transfer.began_s)) / transfer.size_bits


def elsewhere(results: list[Result], address: str) -> list[str]:
    """Complaints about answers that are not this edge's; on a machine that stands still it may be taken for lost."""
    return [f"{result.executed_on} answered: {result.fallback}" for result in results if result.executed_on != address]


@pytest.mark.parametrize("rate_bps", [5e6, 40e6])
def test_a_constant_link_takes_bits_over_rate_and_is_believed_to(nodes: list[Edge], wide: Network, rate_bps: float):
    address = nodes[0].address

    def play() -> list[str]:
        link = NotedLink(Trace.constant(rate_bps))
        with wide.device({address: link}, policy=sends_input_to(0)) as device:
            results = wide.answers(device, MEASURED)
            believed = device.links_bps()[0] / rate_bps
        assert_never_faster(link, lambda time_s: rate_bps * time_s)
        if complaints := elsewhere(results, address):
            return complaints
        ratios = []
        for result in results:
            took_s = result.outcome.upload_s + result.outcome.download_s
            assert took_s >= (result.sent_bits - BURST_BITS) / rate_bps
            assert result.outcome.upload_s > 0.99 * took_s, "the reply is small"
            ratios.append(took_s * rate_bps / result.sent_bits)
        typical = statistics.median(ratios)
        found = believed * typical
        print(f"{rate_bps / 1e6:g} Mbit/s: transfers took {typical:.3f} times bits / rate (median)")
        print(f"{rate_bps / 1e6:g} Mbit/s: believed {believed:.3f} of the true rate, after a first guess of 10 Mbit/s")
        wrong = {
            f"transfers took {min(ratios):.3f} times bits / rate and more": min(ratios) >= 1.5,
            f"{believed:.3f} of the rate is believed where {1 / typical:.3f} was seen": not 0.5 < found < 1.6,
        }
        return [what for what, is_so in wrong.items() if is_so]

    one_round_right(play, 10)


def test_each_link_is_estimated_for_itself_and_the_best_one_is_used(nodes: list[Edge], wide: Network):
    rates_bps = (1e6, 8e6, 2.5e6)  # so slow that a busy machine's pauses are short beside transfers and probes

    def play() -> list[str]:
        links = {node.address: NotedLink(Trace.constant(rate)) for node, rate in zip(nodes, rates_bps, strict=True)}
        with wide.device(links) as device:
            seen_bps = []
            for server in range(3):
                results = wide.answers(device, 2, sends_input_to(server))
                if complaints := elsewhere(results, nodes[server].address):
                    return complaints
                outcomes = [(found.sent_bits, found.outcome) for found in results]
                seen_bps.append(statistics.median(bits / (one.upload_s + one.download_s) for bits, one in outcomes))
            believed = np.array(device.links_bps()) / seen_bps
            chosen = [result.executed_on for result in wide.answers(device, 6, must_send)]
        shares = believed.round(3).tolist()
        print(f"believed rates as shares of the seen ones: {shares}, seen {np.round(seen_bps, -5)}")
        wrong = {
            f"believed rates are {shares} of the seen ones": not ((believed > 0.4) & (believed < 2.0)).all(),
            f"asked {chosen}": chosen != [nodes[1].address] * 6,
        }
        return [what for what, is_so in wrong.items() if is_so]

    one_round_right(play, 10)


@pytest.mark.slow
def test_shipped_traces(nodes: list[Edge], wide: Network):
    names = ("near", "mid", "far")

    def play() -> list[str]:
        wrong = []
        links = {node.address: NotedLink(Trace.load(trace_id=name)) for node, name in zip(nodes, names, strict=True)}
        with wide.device(links) as device:
            for server in range(3):
                wide.answers(device, 4, sends_input_to(server))
        for name, link in zip(names, links.values(), strict=True):
            capacity = capacity_of(TRACES, name)
            assert_never_faster(link, capacity)
            requests = [found for found in link.transfers if found.size_bits > 1e6 and found.was_idle]
            surplus = [surplus_of(found, capacity) for found in requests]
            print(f"trace {name}: the link could have carried {np.round(surplus, 3)} times what it did")
            if len(surplus) < 3 or min(surplus) >= 1.3:
                wrong.append(f"{name} could have carried {surplus} times what it did")
        return wrong

    one_round_right(play)


@pytest.mark.skipif(not REAL, reason="COINFER_DATA names no folder with traces")
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name.removesuffix(".csv.gz"))
def test_real_traces(nodes: list[Edge], small: Network, path: Path):
    with gzip.open(path, "rt", newline="") as file:
        rows = collections.Counter(row["trace_id"] for row in csv.DictReader(file))
    name = rows.most_common(1)[0][0]
    link = NotedLink(Trace.load(path, name))
    with small.device({nodes[0].address: link}, slowdown=200.0, hedge=True) as device:
        results = small.answers(device, 60)
    assert_never_faster(link, capacity_of(path, name))
    there = sum(result.executed_on != "device" for result in results)
    print(f"{name}: mean {link.trace.mean_bps / 1e6:.1f} Mbit/s, {there} of {len(results)} answered by the edge")


class StagedClock(WallClock):
    """Time passes as on the wall, but goes on to the next stage only when told to, and at once."""

    def __init__(self, stage_s: float):
        self._began_s = time.monotonic()
        self._stage_s, self._stage = stage_s, 0

    def next_stage(self) -> None:
        self._began_s, self._stage = time.monotonic(), self._stage + 1

    def now_s(self) -> float:
        passed_s = time.monotonic() - self._began_s
        return self._stage * self._stage_s + min(passed_s, 0.99 * self._stage_s)

    def sleep(self, duration_s: float, cancel: threading.Event | None = None) -> bool:
        until_s = self.now_s() + duration_s
        while self.now_s() < until_s:
            if not super().sleep(0.001, cancel):
                return False
        return True


def test_the_device_answers_while_its_link_is_down_and_uses_it_afterwards(nodes: list[Edge], small: Network):
    hour_s = 3600.0
    clock = StagedClock(hour_s)
    link = Link(Trace(np.array([0.0, hour_s, 2 * hour_s, 9 * hour_s]), np.array([50e6, 1.0, 50e6, 50e6])), clock)
    with small.device({nodes[0].address: link}, policy=sends_input_to(0), hedge=True) as device:
        wait_until(lambda: small.answers(device, 1)[0].executed_on != "device", USED_S, "the link is used")
        clock.next_stage()
        during = small.answers(device, 5)
        clock.next_stage()
        wait_until(lambda: small.answers(device, 1)[0].executed_on != "device", USED_S, "the link is used again")
    assert [result.executed_on for result in during] == ["device"] * 5

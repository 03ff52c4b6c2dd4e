import csv
import gzip
import runpy
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.paths import ROOT

from coinfer.resources import TRACES
from coinfer.runtime.clock import VirtualClock, WallClock
from coinfer.runtime.emulation.links import Link, TransferCancelled
from coinfer.traces import Trace, TraceError, load_traces

REAL_TRACES = ROOT.parent / "shared" / "data" / "traces"
BITS = st.integers(0, 40_000)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Rates held for whole milliseconds, with stretches of nothing."""
    steps_ms = draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    rates = draw(
        st.lists(st.sampled_from([0, 0, 10_000, 250_000, 4e6]), min_size=len(steps_ms), max_size=len(steps_ms))
    )
    rates[draw(st.integers(0, len(rates) - 1))] = 1e6
    times_ms = np.cumsum([0, *steps_ms[:-1]])
    return Trace(times_ms / 1000, np.array(rates, float)).shifted(draw(st.integers(0, 200)) / 1000)


TRANSFERS = st.lists(st.tuples(st.integers(0, 60), BITS), min_size=1, max_size=8)
"""(milliseconds after the one before, bits)"""


def finishes_ms(trace: Trace, burst_bits: float, transfers: list[tuple[int, int]]) -> list[int]:
    """A bucket filled and emptied millisecond after millisecond: in which one each transfer ends."""
    waiting = [[sum(gap for gap, _ in transfers[: i + 1]), bits] for i, (_, bits) in enumerate(transfers)]
    tokens, now_ms, ends = burst_bits, 0, []
    while waiting:
        for earned in (0.0, trace.rate_at((now_ms + 0.5) / 1000) / 1000):
            tokens += earned
            while waiting and waiting[0][0] <= now_ms and waiting[0][1] <= tokens + 1e-6:
                tokens -= waiting.pop(0)[1]
                ends.append(now_ms + (earned > 0))
        if waiting and waiting[0][0] <= now_ms:
            waiting[0][1] -= tokens
            tokens = 0.0
        tokens = min(tokens, burst_bits)
        now_ms += 1
    return ends


def reserved_s(link: Link, transfers: list[tuple[int, int]]) -> list[float]:
    now_ms, ends = 0, []
    for gap, bits in transfers:
        now_ms += gap
        ends.append(link.reserve(bits, now_ms / 1000))
    return ends


@settings(max_examples=60, deadline=None)
@given(traces(), st.sampled_from([0, 5000, 25_600]), TRANSFERS)
def test_transfers_end_as_in_a_bucket_filled_step_by_step(trace, burst_bits, transfers):
    ends_s = reserved_s(Link(trace, VirtualClock(), burst_bits), transfers)
    slow_ms = finishes_ms(trace, burst_bits, transfers)
    for end_s, slow in zip(ends_s, slow_ms, strict=True):
        assert slow - 1 - 1e-6 <= end_s * 1000 <= slow + 1e-6


@settings(max_examples=100, deadline=None)
@given(traces(), st.sampled_from([0, 5000, 25_600]), TRANSFERS)
def test_a_link_never_carries_more_than_its_trace_and_burst(trace, burst_bits, transfers):
    link = Link(trace, VirtualClock(), burst_bits)
    ends_s = reserved_s(link, transfers)
    assert ends_s == sorted(ends_s)
    starts_s = np.cumsum([gap for gap, _ in transfers]) / 1000
    for i in range(len(transfers)):
        for j in range(i, len(transfers)):
            carried = sum(bits for _, bits in transfers[i : j + 1])
            room = trace.bits_until(ends_s[j]) - trace.bits_until(starts_s[i]) + burst_bits
            assert carried <= room + 1e-3


@settings(max_examples=80, deadline=None)
@given(traces(), st.integers(0, 2000))
def test_bits_and_times_are_inverse(trace, time_ms):
    bits = trace.bits_until(time_ms / 1000)
    slowly = sum(trace.rate_at((ms + 0.5) / 1000) for ms in range(time_ms)) / 1000
    assert bits == pytest.approx(slowly, abs=1e-3)
    reached_s = trace.time_of(bits + 1e-3)
    assert trace.bits_until(reached_s) == pytest.approx(bits + 1e-3, abs=1e-4)


def test_time_of_waits_through_nothing():
    trace = Trace(np.array([0.0, 1.0, 3.0]), np.array([100.0, 0.0, 50.0]))
    assert trace.period_s == 5.0
    assert trace.time_of(100) == 1.0
    assert trace.time_of(101) == pytest.approx(3.02)
    assert trace.time_of(200) == 5.0
    assert trace.time_of(10_000_250) == pytest.approx(5 * 50_001 + 0.5)
    assert trace.mean_bps == 40.0


def test_a_trace_that_ends_in_nothing_starts_again():
    trace = Trace(np.array([0.0, 1.0]), np.array([100.0, 0.0]))
    assert trace.time_of(100) == 1.0
    assert trace.time_of(150) == 2.5


def test_rates_hold_until_the_next_and_loop():
    trace = Trace(np.array([7.0, 8.0, 10.0]), np.array([1.0, 2.0, 3.0]))
    times = [0.0, 0.999, 1.0, 2.9, 3.0, 4.999, 5.0, 11.5]
    assert [trace.rate_at(t) for t in times] == [1, 1, 2, 2, 3, 3, 1, 2]
    assert [trace.shifted(3.0).rate_at(t) for t in (0.0, 2.0)] == [3, 1]
    assert trace.shifted(3.0).shifted(-3.0).rate_at(0.0) == 1


@settings(max_examples=50, deadline=None)
@given(traces(), TRANSFERS, st.floats(0, 1))
def test_a_whole_period_later_everything_is_the_same(trace, transfers, latency_s):
    now = reserved_s(Link(trace, VirtualClock(), 0), transfers)
    turned = trace.shifted(3 * trace.period_s)
    later = reserved_s(Link(turned, VirtualClock(), 0, latency_s), transfers)
    assert later == pytest.approx([end + latency_s for end in now])


def test_a_constant_link_takes_size_over_rate():
    clock = VirtualClock(100.0)
    link = Link(Trace.constant(8e6), clock, burst_bits=0, latency_s=0.01)
    assert link.transmit(8e6) == pytest.approx(1.01)
    assert clock.now_s() == pytest.approx(101.01)
    assert link.rate_bps() == 8e6
    clock.sleep(50)
    assert link.transmit(4e6) == pytest.approx(0.51)
    assert link.transmit(0) == pytest.approx(0.01)


def test_an_idle_link_saves_up_its_burst_and_no_more():
    clock = VirtualClock()
    link = Link(Trace.constant(1000), clock, burst_bits=500)
    assert link.transmit(500) == 0
    assert link.transmit(500) == pytest.approx(0.5)
    clock.sleep(3600)
    assert link.transmit(700) == pytest.approx(0.2)


def test_threads_share_the_link_and_lose_nothing():
    link = Link(Trace.constant(1e6), VirtualClock(), burst_bits=0)
    ends: list[float] = []

    def work() -> None:
        ends.extend(link.reserve(1000, 0.0) for _ in range(200))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.allclose(np.sort(ends), np.arange(1, 1601) / 1000)


def test_a_cancelled_transfer_frees_the_link():
    clock, cancel = WallClock(), threading.Event()
    link = Link(Trace.constant(1e6), clock, burst_bits=0)
    raised = []

    def work() -> None:
        with pytest.raises(TransferCancelled):
            link.transmit(1e12, cancel)
        raised.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    cancel.set()
    thread.join(60)
    assert raised == [True]
    assert link.reserve(1e3, clock.now_s()) - clock.now_s() < 100


def test_a_cancelled_transfer_does_not_move_those_behind_it():
    clock, cancel = VirtualClock(), threading.Event()
    cancel.set()
    link = Link(Trace.constant(1000), clock, burst_bits=0)

    class Behind(threading.Event):
        """Another transfer joins the queue while this one waits."""

        def is_set(self) -> bool:
            ends.append(link.reserve(500, 0.0))
            return True

    ends: list[float] = []
    with pytest.raises(TransferCancelled):
        link.transmit(1000, Behind())
    assert ends == [1.5]
    assert link.reserve(500, 0.0) == 2.0
    with pytest.raises(TransferCancelled):
        link.transmit(4000, cancel)
    assert link.reserve(500, 0.0) == 2.5


@pytest.mark.parametrize("size", [-1, float("nan"), float("inf")])
def test_sizes_that_are_none_are_refused(size):
    with pytest.raises(ValueError, match="size of at least 0"):
        Link(Trace.constant(1), VirtualClock()).reserve(size, 0.0)


@pytest.mark.parametrize("setting", [{"burst_bits": -1}, {"burst_bits": float("inf")}, {"latency_s": float("nan")}])
def test_link_settings_that_make_no_sense_are_refused(setting):
    with pytest.raises(ValueError, match="burst and a latency"):
        Link(Trace.constant(1), VirtualClock(), **setting)


# Files

HEAD = "trace_id,time_s,throughput_bytes_per_s\n"
MALFORMED = {
    "empty": ("", r"bad.csv:1: columns are '', expected 'trace_id,time_s,throughput_bytes_per_s'"),
    "no row": (HEAD, "holds no trace"),
    "other columns": ("a,b\n1,2\n", "bad.csv:1: columns are 'a,b'"),
    "too few values": (HEAD + "a,0,1\na,1\n", "bad.csv:3: 2 values, expected 3"),
    "empty line": (HEAD + "a,0,1\n\na,1,1\n", "bad.csv:3: 0 values, expected 3"),
    "no number": (HEAD + "a,0,fast\n", "bad.csv:2: throughput_bytes_per_s is 'fast', expected a number"),
    "negative": (HEAD + "a,0,-5\n", "bad.csv:2: throughput_bytes_per_s is '-5'"),
    "nan": (HEAD + "a,0,nan\n", "bad.csv:2: throughput_bytes_per_s is 'nan'"),
    "infinite": (HEAD + "a,inf,5\n", "bad.csv:2: time_s is 'inf'"),
    "time stands still": (HEAD + "a,0,1\na,0,2\n", "bad.csv:3: time_s 0 of 'a' does not come after 0"),
    "time goes back": (HEAD + "a,0,1\na,2,1\nb,0,1\na,1,2\n", "bad.csv:5: time_s 1 of 'a' does not come after 2"),
    "nothing ever": (HEAD + "a,0,0\na,1,0\n", "trace 'a': the rate is 0 all the time"),
    "no text": (b"\xff\xfe\x00\x01", "not a readable trace file"),
}


@pytest.mark.parametrize(("content", "text"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_files_are_named_with_their_line(tmp_path, content, text):
    path = tmp_path / "bad.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TraceError, match=text) as refused:
        Trace.load(path)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)


def test_files_that_are_missing_cut_or_not_compressed(tmp_path):
    with pytest.raises(TraceError, match="no such file"):
        Trace.load(tmp_path / "none.csv")
    with pytest.raises(TraceError, match="not a readable trace file"):
        Trace.load(tmp_path)
    (tmp_path / "plain.csv.gz").write_text(HEAD + "a,0,1\n")
    with pytest.raises(TraceError, match="not a readable trace file"):
        Trace.load(tmp_path / "plain.csv.gz")
    (tmp_path / "cut.csv.gz").write_bytes(TRACES.read_bytes()[:5000])
    with pytest.raises(TraceError, match="not a readable trace file"):
        Trace.load(tmp_path / "cut.csv.gz")


def test_traces_are_chosen_by_id(tmp_path):
    path = tmp_path / "two.csv.gz"
    path.write_bytes(gzip.compress((HEAD + "one,0,10\ntwo,0,20\none,2,30\n").encode()))
    assert Trace.load(path).rate_bps.tolist() == [80, 240]
    (tmp_path / "marked.csv").write_text(HEAD + "one,0,10\none,2,30\n", encoding="utf-8-sig")
    assert Trace.load(tmp_path / "marked.csv").rate_bps.tolist() == [80, 240], "with a byte-order mark"
    assert Trace.load(path, "two").rate_bps.tolist() == [160]
    with pytest.raises(TraceError, match="no trace 'three'; it holds one, two"):
        Trace.load(path, "three")


@pytest.mark.parametrize("rate_bps", [0.0, -1.0, float("nan"), float("inf")])
def test_constant_rates_that_are_none_are_refused(rate_bps):
    with pytest.raises(TraceError):
        Trace.constant(rate_bps)


def test_shipped_traces_are_what_their_script_writes():
    script = runpy.run_path(str(ROOT / "tools" / "make_trace.py"))
    assert gzip.decompress(TRACES.read_bytes()).decode() == script["text"]()


def test_shipped_traces_go_from_3g_to_good_lte():
    shipped = load_traces()
    means_mbit = {name: trace.mean_bps / 1e6 for name, trace in shipped.items()}
    assert means_mbit["near"] > 20 > means_mbit["mid"] > 8 > means_mbit["far"] > 2
    for trace in shipped.values():
        assert trace.rate_bps.min() >= 0.5e6 - 8
        assert trace.rate_bps.max() <= 60e6
        assert trace.period_s == pytest.approx(300)


@pytest.mark.skipif(not REAL_TRACES.is_dir(), reason="the measured traces are not at hand")
@pytest.mark.parametrize(
    "family", ["hsdpa_norway_3g", "lte_nyc_2019", "cellular_us_mahimahi", "ucc_5g_production", "lumos5g_mmwave"]
)
def test_measured_traces_carry_what_their_index_says(family):
    with (REAL_TRACES / "index.csv").open() as file:
        means_mbit = {row["trace_id"]: float(row["mean_mbit_s"]) for row in csv.DictReader(file)}
    for name, trace in list(load_traces(REAL_TRACES / f"{family}.csv.gz").items())[:6]:
        assert trace.mean_bps / 1e6 == pytest.approx(means_mbit[name], rel=0.02)
        link, done_s, size_bits = Link(trace, VirtualClock(), burst_bits=0), 0.0, trace.cumulative_bits[-1] / 150.5
        for _ in range(300):
            done_s = link.reserve(size_bits, done_s)
        assert trace.bits_until(done_s) == pytest.approx(300 * size_bits, rel=1e-9)
        assert done_s < 2 * trace.period_s

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from coinfer.resources import TRACES
from coinfer.scenario.traces import DATA_VARIABLE, Workload, find_file, load_workload
from coinfer.traces import Trace, TraceError, load_traces

HEAD = "trace_id,time_s,throughput_bytes_per_s\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_slots_of_the_shipped_links_are_what_the_runtime_replays():
    for trace in load_traces().values():
        slots = trace.per_slot(0.5)
        expected = [trace.bits_until((i + 1) * 0.5) - trace.bits_until(i * 0.5) for i in range(len(slots))]
        np.testing.assert_allclose(slots * 0.5, expected, rtol=1e-9)


@given(st.lists(st.tuples(st.floats(0.01, 5), st.floats(0, 1e6)), min_size=1, max_size=20), st.floats(0.05, 3))
@settings(max_examples=100, deadline=None)
def test_slots_carry_what_the_trace_carries(rows: list[tuple[float, float]], slot_s: float):
    steps, rates = map(np.array, zip(*rows, strict=True))
    assume(rates.any())
    trace = Trace(np.concatenate([[0.0], np.cumsum(steps)[:-1]]), rates)
    slots = trace.per_slot(slot_s)
    whole_s = min(len(slots) * slot_s, trace.period_s)
    edges = np.append(trace.times_s, trace.period_s)
    fine = np.interp(whole_s, edges, np.concatenate([[0], np.cumsum(rates * np.diff(edges))]))
    assert slots.sum() * min(slot_s, trace.period_s) == pytest.approx(fine, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n", ":1: columns are 'a,b', expected 'trace_id,time_s,throughput_bytes_per_s'"),
        (HEAD, ": holds no trace; expected rows of trace_id,time_s,throughput_bytes_per_s"),
        (HEAD + "x,0,1\nx,1\n", ":3: 2 values, expected 3: trace_id,time_s,throughput_bytes_per_s"),
        (HEAD + "x,0,1\nx,0,1\n", ":3: time_s 0 of 'x' does not come after 0"),
        (HEAD + "x,0,-1\n", ":2: throughput_bytes_per_s is '-1', expected a number of at least 0"),
        (HEAD + "x,nan,1\n", ":2: time_s is 'nan', expected a number of at least 0"),
        (HEAD + "x,0,0\nx,1,0\n", ": trace 'x': the rate is 0 all the time, so nothing would ever arrive"),
    ],
)
def test_what_is_wrong_with_links_is_said(tmp_path: Path, text: str, said: str):
    path = write(tmp_path / "t.csv", text)
    with pytest.raises(TraceError) as raised:
        load_traces(path)
    assert str(raised.value) == f"{path}{said}"


def test_files_that_are_no_csv(tmp_path: Path):
    for name, content in {
        "a.csv.gz": b"plain",
        "b.csv": b"\xff\xfe",
        "c.csv.gz": gzip.compress(b"x" * 99)[:20],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TraceError, match="not a readable trace file"):
            load_traces(tmp_path / name)


def test_a_workload_of_moments_and_one_of_counts_agree(tmp_path: Path):
    moments = write(
        tmp_path / "m.csv", "service,time_s\n" + "".join(f"a,{t}\n" for t in (10, 10, 10.5, 12.25, 12.5, 13))
    )
    counts = write(tmp_path / "c.csv", "time_s,requests\n0,3\n1,0\n2,2\n3,1\n")
    of_moments = load_workload(moments, "a").window(0, 4.0)
    np.testing.assert_allclose(load_workload(counts, None).per_bin(1.0), [3, 0, 2, 1])
    assert of_moments.counts.sum() == 6
    assert of_moments.times_s[0] == 0


def test_the_shipped_workload_keeps_its_requests():
    path = find_file("workloads/azure_llm_2023_code.csv.gz", None)
    assert path is not None
    workload = load_workload(path, None)
    assert workload.counts.sum() == 8819
    assert workload.per_bin(0.1).sum() == pytest.approx(8819, rel=1e-3)
    assert workload.per_bin(1.0).max() > 20 * workload.per_bin(1.0).mean() / 2  # bursts


@pytest.mark.parametrize(
    ("text", "series", "said"),
    [
        ("requests\n1\n", None, ":1: columns are 'requests', expected 'time_s'"),
        ("time_s,requests\n0,0\n", None, ": holds no request"),
        ("time_s\n2\n1\n", None, ":3: time_s 1 does not come after 2"),
        ("service,time_s\na,1\nb,2\n", "c", ": no series 'c'; it holds: 'a', 'b'"),
        ("service,time_s\na,1\nb,2\n", None, ": holds several, name one with `series`: 'a', 'b'"),
        ("time_s\n1\n", "c", ": has no column that names a series; leave `series` away"),
    ],
)
def test_what_is_wrong_with_a_workload_is_said(tmp_path: Path, text: str, series: str | None, said: str):
    path = write(tmp_path / "w.csv", text)
    with pytest.raises(TraceError) as raised:
        load_workload(path, series)
    assert str(raised.value) == f"{path}{said}"


def test_a_window_outside_is_refused():
    with pytest.raises(ValueError, match="holds nothing between 9 s and 2 s"):
        Workload(np.array([0.0, 1.0]), np.ones(2), 2.0).window(9, None)


def test_files_are_looked_for_beside_then_in_the_data_folder_then_among_the_shipped(tmp_path: Path, monkeypatch):
    name, beside, data = "traces/synthetic.csv.gz", tmp_path / "beside", tmp_path / "data"
    shipped = find_file(name, beside)
    assert shipped == TRACES
    for folder in (data, beside):
        (folder / "traces").mkdir(parents=True)
        (folder / name).write_bytes(b"")
        monkeypatch.setenv(DATA_VARIABLE, str(data))
        assert find_file(name, beside) == folder / name
    assert find_file("no\0name", beside) is None
    assert find_file("nothing", beside) is None

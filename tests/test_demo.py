"""The demo's schemes, its summary and the traces that it gives to links."""

from pathlib import Path

import numpy as np
import pytest
from tests.tables import analytic_table

from coinfer.demo import report
from coinfer.demo.run import link_traces
from coinfer.demo.schemes import PLANNER, device_only, fixed_best, schemes, server_only
from coinfer.graph import zoo
from coinfer.profile.options import compile_options
from coinfer.records import Record
from coinfer.runtime import estimate as est
from coinfer.runtime.planner import observe
from coinfer.traces import SHIPPED_TRACES, TraceError
from coinfer.types import DEVICE, Hop, Outcome, Route

GRAPH = zoo.build("alexnet-cifar")
OPTIONS = compile_options(GRAPH, analytic_table(GRAPH), (32, 8))


def seen(rates_bps, backlog_s=0.0, scale=1.0):
    servers = [
        est.after_reply(est.first_server(rate, 0.0), backlog_s, 4, 0.0)._replace(scale=scale) for rate in rates_bps
    ]
    return observe(OPTIONS, servers, np.inf, 0.0, device_scale=10.0)


def test_each_scheme_does_what_its_name_says():
    fast, slow = seen([1e9, 1e3]), seen([1e2, 1e2])
    assert device_only(OPTIONS)(fast).server[0] == DEVICE
    only = server_only(OPTIONS, GRAPH.inputs)
    for observation in (fast, slow):
        decision = only(observation)
        assert OPTIONS.cuts[decision.option[0]] == GRAPH.inputs
        assert decision.server[0] != DEVICE
    assert only(fast).server[0] == 0
    fixed = fixed_best(slow, [1e9, 1e3])
    assert fixed(slow) == fixed(fast), "it never adapts"
    assert fixed(slow).server[0] == 0, "chosen at the mean rates, not at those of the moment"
    assert fixed_best(fast, [1e2, 1e2])(fast).server[0] == DEVICE
    assert next(iter(schemes(OPTIONS, GRAPH.inputs, fast, [1e9, 1e3]))) == PLANNER


def record(i: int, latency_s: float, predicted_s: float = 0.1, fallback: str = "") -> Record:
    outcome = Outcome(latency_s / 2, latency_s / 2, 0.0, 0.0, 0.0, latency_s, 0.0, 1.0, True, latency_s <= 0.15)
    route = Route((Hop("device", ("input",), 8), Hop("a:1", ("logits",), 32)), 0, 0.15)
    return Record("planner", i, 0.3 * i, 1e6, route, "a:1", fallback, predicted_s, 8e3, outcome)


def test_the_summary_is_what_the_records_say():
    records = [record(0, 0.1), record(1, 0.2, fallback="a:1: late"), record(2, 0.1), record(3, 0.4)]
    found = report.summarise(records, [True, True, False, True])
    assert found.requests == 4
    assert found.mean_s == pytest.approx(0.2)
    assert found.in_time == pytest.approx(0.5)
    assert found.sent_bytes == pytest.approx(1000)
    assert found.fallbacks == 1
    assert found.prediction_error == pytest.approx(0.25)
    assert found.top1_agreement == pytest.approx(0.75)
    assert 0.35 < found.p95_s < 0.4


def test_links_take_the_first_traces_of_a_file_or_one_at_different_times():
    three = link_traces(str(SHIPPED_TRACES), 3)
    assert list(three) == ["near", "mid", "far"]
    one = link_traces(f"{SHIPPED_TRACES}:far", 3)
    assert len(one) == 3
    rates = [trace.rate_at(0.0) for trace in one.values()]
    assert len(set(rates)) > 1
    first, second = list(one.values())[:2]
    assert second.rate_at(0.0) == first.rate_at(first.period_s / 3)


def test_an_unknown_trace_is_named_with_the_known(tmp_path: Path):
    with pytest.raises(TraceError, match="no trace 'moon'; it holds near, mid, far"):
        link_traces(f"{SHIPPED_TRACES}:moon", 3)
    with pytest.raises(TraceError, match="no such file"):
        link_traces(str(tmp_path / "none.csv"), 3)

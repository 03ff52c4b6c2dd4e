"""The demo's schemes, its summary and the traces that it gives to links."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tests.tables import analytic_table, made_up_accuracy
from typer.testing import CliRunner

from coinfer.cli.main import app
from coinfer.demo import report, run
from coinfer.demo.live import LiveTable, cells, headings
from coinfer.demo.pictures import load_pictures
from coinfer.demo.replay import link_traces
from coinfer.demo.report import View
from coinfer.demo.schemes import PLANNER, TRAINED_POLICY, device_only, fixed_best, schemes, server_only
from coinfer.demo.settings import DemoSettings, deadline_for, demo_settings, link_scale_for
from coinfer.graph.open_model import open_model
from coinfer.graph.zoo import early_exits, networks
from coinfer.options.compile import compile_options
from coinfer.profile.dataset import CIFAR_CLASSES, DataError
from coinfer.records import Record
from coinfer.resources import TRACES
from coinfer.runtime.device import estimate as est
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.planning.observation import observe
from coinfer.runtime.device.planning.planner import Planner
from coinfer.runtime.images import ImageError
from coinfer.traces import TraceError
from coinfer.types import DEVICE, Hop, Outcome, Route

GRAPH = networks.build("alexnet-cifar")
OPTIONS = compile_options(GRAPH, analytic_table(GRAPH), (32, 8))


def observation_at(rates_bps, backlog_s=0.0, scale=1.0):
    servers = [
        est.after_reply(est.first_server(rate, 0.0), backlog_s, 4, 0.0)._replace(scale=scale) for rate in rates_bps
    ]
    return observe(OPTIONS, servers, np.inf, 0.0, device_scale=10.0)


def test_each_scheme_does_what_its_name_says():
    fast, slow = observation_at([1e9, 1e3]), observation_at([1e2, 1e2])
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
    plain = Planner(GRAPH, analytic_table(GRAPH), DeviceConfig(), OPTIONS)
    assert next(iter(schemes(plain, fast, [1e9, 1e3]))) == PLANNER
    here = Planner(GRAPH, analytic_table(GRAPH), DeviceConfig(), OPTIONS.take(OPTIONS.is_local))
    assert "server only" not in schemes(here, observe(here.options, [], np.inf, 0.0), [])
    trained = Planner(GRAPH, analytic_table(GRAPH), DeviceConfig(policy=device_only(OPTIONS)), OPTIONS)
    compared = schemes(trained, fast, [1e9, 1e3])
    assert list(compared)[:2] == [TRAINED_POLICY, PLANNER]
    assert [name for name, scheme in compared.items() if scheme.is_adaptive] == [TRAINED_POLICY, PLANNER]


def test_with_exits_rivals_use_the_last():
    graph = early_exits.build("alexnet-cifar-exits")
    options = compile_options(graph, analytic_table(graph), (32, 8), made_up_accuracy(graph))
    observation = observe(options, [], np.inf, 0.0)
    assert options.triples[device_only(options)(observation).option[0]] == (2, ("exit3",), 32)
    server = est.after_reply(est.first_server(1e6, 0.0), 0.0, 4, 0.0)
    decision = server_only(options, graph.inputs)(observe(options, [server], np.inf, 0.0))
    assert options.triples[decision.option[0]] == (2, graph.inputs, 8)


def record(i: int, latency_s: float, predicted_s: float = 0.1, fallback: str = "") -> Record:
    outcome = Outcome(latency_s / 2, latency_s / 2, 0.0, 0.0, 0.0, latency_s, 0.0, 1.0, True, latency_s <= 0.15)
    route = Route((Hop("device", ("input",), 8), Hop("a:1", ("logits",), 32)), 0, 0.15)
    return Record("planner", i, 0.3 * i, 1e6, route, "a:1", fallback, predicted_s, 8e3, outcome)


def test_the_summary_is_what_the_records_say():
    records = [record(0, 0.1), record(1, 0.2, fallback="a:1: late"), record(2, 0.1), record(3, 0.4)]
    summary = report.summarise(records, [True, True, False, True])
    assert summary.requests == 4
    assert summary.mean_s == pytest.approx(0.2)
    assert summary.in_time == pytest.approx(0.5)
    assert summary.sent_bytes == pytest.approx(1000)
    assert summary.fallbacks == 1
    assert summary.prediction_error == pytest.approx(0.25)
    assert summary.right == pytest.approx(0.75)
    assert summary.exits == (1.0,)
    assert 0.35 < summary.p95_s < 0.4


def test_exits_and_labels_are_shown_where_there_are_any():
    early = record(0, 0.1)._replace(exit=1, route=record(0, 0.1).route._replace(exit=2))
    full, plain = View(("input",), True, True), View(("input",))
    for view in (full, plain):
        assert len(cells(early, True, view)) == len(headings(view))
    assert cells(early, False, full)[3:5] == ["2 sure", "-"]
    assert cells(early, False, full)[-1] == "wrong"
    assert report.choice_name(early, full) == "2 sure"
    assert report.choice_name(record(0, 0.1), full) == "1 (input)"
    assert report.choice_name(record(0, 0.1), plain) == "(input)"
    table = report.comparison([report.summarise([early, record(1, 0.2)], [True, False])], 0.15, full)
    shown = [column.header for column in table.columns]
    assert shown[-3:] == ["right", "expected", "by exit, %"]
    assert list(table.columns[-1].cells) == ["50 50"]


def test_small_networks_are_slowed_with_their_links_unless_told():
    small, plain = demo_settings("alexnet-exits", {}, {}), demo_settings("resnet50", {}, {})
    assert (small.link_scale, small.deadline_s, small.device.bits) == (None, None, (16, 8, 4))
    assert (small.device.slowdown, plain.device.slowdown) == (200.0, 6.0)
    assert small.device.objective.min_accuracy > 0.7
    assert (plain.link_scale, plain.device.objective.min_accuracy, plain.deadline_s) == (1.0, 0.0, 0.25)
    energy = {"goal": "energy", "power_w": 3.0, "min_accuracy": None}
    custom = demo_settings("alexnet-exits", {"bits": (8,), "jpeg_quality": None}, energy, deadline_s=0.1, runs=None)
    assert (custom.deadline_s, custom.device.bits, custom.device.objective.goal, custom.runs) == (
        0.1,
        (8,),
        "energy",
        "runs",
    )
    assert custom.device.objective.min_accuracy == small.device.objective.min_accuracy
    confident = demo_settings("alexnet-exits", {"confidence": 0.2}, {})
    assert (small.device.confidence_loss, confident.device.confidence_loss) == (0.005, None)
    assert deadline_for(small, 0.08) == pytest.approx(0.072)
    assert link_scale_for(small, 0.08, 24e3, 10e6) == pytest.approx(0.0375, rel=0.03)
    assert (deadline_for(plain, 0.08), link_scale_for(plain, 0.08, 24e3, 10e6)) == (0.25, 1.0)
    scaled = link_traces(str(TRACES), 3, 0.03)
    whole = link_traces(str(TRACES), 3)
    assert [scaled[name].mean_bps / whole[name].mean_bps for name in whole] == pytest.approx([0.03] * 3)


def test_sizes_limits_and_provider_hold_for_the_device_and_its_servers(monkeypatch: pytest.MonkeyPatch):
    asked: list[DemoSettings] = []
    monkeypatch.setattr(run, "run_demo", lambda settings, _: asked.append(settings))
    options = ["--shape", "height=32", "--shape", "width=32", "--limit", "trial-s=200", "--provider", "cpu"]
    assert CliRunner().invoke(app, ["demo", "--model", "free.onnx", *options]).exit_code == 0
    device = asked[0].device
    assert (device.shapes, device.limits, device.provider) == (
        {"height": "32", "width": "32"},
        {"trial-s": "200"},
        "cpu",
    )
    given = "--provider cpu --shape height=32 --shape width=32 --limit trial-s=200"
    assert run.edge_options(device) == given.split()


def write_classes(folder: Path, levels: dict[str, int]) -> str:
    """Three pictures of each class, as bright as the level says."""
    for name, level in levels.items():
        (folder / name).mkdir()
        for i in range(3):
            Image.fromarray(np.full((32, 32, 3), level + i, np.uint8)).save(folder / name / f"{i}.png")
    return str(folder)


def test_labelled_pictures_are_judged_by_their_class(tmp_path: Path):
    pictures = load_pictures(GRAPH, write_classes(tmp_path, {"dog": 200, "cat": 10}))
    assert pictures.labels is not None
    levels = [int(picture.min()) for picture in pictures.images]
    shown = sorted((CIFAR_CLASSES[label], level > 100) for label, level in zip(pictures.labels, levels, strict=True))
    assert shown == [*[("cat", False)] * 3, *[("dog", True)] * 3]
    plain = load_pictures(GRAPH, None)
    assert (plain.labels, plain.kind) == (None, "6 photographs")


def test_classes_that_the_network_does_not_know_are_refused_in_one_line(tmp_path: Path):
    where = write_classes(tmp_path, {"dog": 200, "ant": 10})
    with pytest.raises(
        DataError, match="2 classes, alexnet-cifar knows 10; expected a folder for each class"
    ) as caught:
        load_pictures(GRAPH, where)
    assert "\n" not in str(caught.value)


def test_a_network_s_own_classes_are_counted_in_the_order_of_their_names(tmp_path: Path):
    where = write_classes(tmp_path, {f"kind {i}": 10 * i for i in reversed(range(10))})
    pictures = load_pictures(GRAPH, where)
    assert pictures.labels is not None
    levels = [int(picture.min()) for picture in pictures.images]
    assert [level // 10 for level in levels] == pictures.labels.tolist() == [*range(10)] * 3


def test_the_trained_network_is_shown_labelled_views_of_the_shipped_photographs():
    pictures = load_pictures(open_model("alexnet-exits"), None)
    assert pictures.labels is not None
    names = [CIFAR_CLASSES[label] for label in pictures.labels]
    assert {name: names.count(name) for name in names} == {"cat": 12, "dog": 6, "bird": 6}
    assert all(picture.shape == (32, 32, 3) for picture in pictures.images)
    assert len({picture.tobytes() for picture in pictures.images}) == len(pictures.images), "no two views are the same"
    assert "24 views of 4 photographs" in pictures.kind
    assert "too few" in pictures.kind


def test_a_broken_picture_is_left_out_and_named(tmp_path: Path):
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("not a picture")
    pictures = load_pictures(GRAPH, str(tmp_path))
    assert (len(pictures.images), pictures.kind) == (1, "1 photographs")
    assert [str(problem) for problem in pictures.unreadable] == [
        f"{tmp_path / 'bad.png'}: not a readable picture (UnidentifiedImageError); expected JPEG or PNG"
    ]
    (tmp_path / "good.png").unlink()
    with pytest.raises(ImageError, match=r"bad\.png: not a readable picture"):
        load_pictures(GRAPH, str(tmp_path))


def test_links_take_the_first_traces_of_a_file_or_one_at_different_times():
    three = link_traces(str(TRACES), 3)
    assert list(three) == ["near", "mid", "far"]
    one = link_traces(f"{TRACES}:far", 3)
    assert len(one) == 3
    rates = [trace.rate_at(0.0) for trace in one.values()]
    assert len(set(rates)) > 1
    first, second = list(one.values())[:2]
    assert second.rate_at(0.0) == first.rate_at(first.period_s / 3)


def test_an_unknown_trace_is_named_with_the_known(tmp_path: Path):
    with pytest.raises(TraceError, match="no trace 'moon'; it holds near, mid, far"):
        link_traces(f"{TRACES}:moon", 3)
    with pytest.raises(TraceError, match="no such file"):
        link_traces(str(tmp_path / "none.csv"), 3)


def test_the_live_table_fits_a_terminal_of_120_columns():
    view = View(("input",), has_exits=True, has_labels=True)
    hops = (Hop("device", ("exit2.conv.relu",), 16), Hop("127.0.0.1:37711", ("exit2",), 32))
    outcome = Outcome(0.1, 0.123, 0.123, 0.123, 0.123, 0.999, 0.0, 0.8, True, True)
    record = Record(
        "fixed best cut", 120, 1.0, 1.05e6, Route(hops, 1, 0.2), "127.0.0.1:37711", "", 0.1, 1e4, outcome, 1, ()
    )
    console = Console(width=120, force_terminal=True, no_color=True, file=io.StringIO())
    with LiveTable(console, ["fixed best cut"], 10, view) as live:
        live.add(record, True)
    shown = console.file.getvalue()
    assert "…" not in shown
    assert "exit2.conv.relu" in shown
    assert ":37711" in shown

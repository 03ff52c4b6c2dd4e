"""The demo's schemes, its summary and the traces that it gives to links."""

import io
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tests.exit_training.bottlenecks import profile
from tests.runtime.device.test_blocks_decider import policy_file
from tests.tables import analytic_table, made_up_accuracy
from typer.testing import CliRunner

from coinfer.cli.main import app
from coinfer.demo import crowd, report, run
from coinfer.demo.cluster import edges
from coinfer.demo.live import LivePicture
from coinfer.demo.pictures import load_pictures
from coinfer.demo.report import View
from coinfer.demo.rounds import Answer
from coinfer.demo.run import edge_options
from coinfer.demo.schemes import (
    PLANNER,
    TRAINED_POLICY,
    FixedChoice,
    at_state,
    best_in_hindsight,
    device_only,
    fixed_best,
    schemes,
    server_only,
)
from coinfer.demo.script import PHASES, PICTURE_SHARE, file_traces, moments_bps, phase_traces, trace_phase
from coinfer.demo.settings import DEVICE_S, SERVER_SHARES, DemoSettings, demo_settings, fitted
from coinfer.graph.open_model import open_model
from coinfer.graph.zoo import early_exits, networks
from coinfer.options.compile import compile_options
from coinfer.profile.dataset import CIFAR_CLASSES, DataError
from coinfer.records import Record
from coinfer.resources import TRACES
from coinfer.runtime.device import estimate as est
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.planning.observation import choice_latency_s, observe
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


def planner_of(servers=("a:1", "b:1"), options=OPTIONS, **settings) -> Planner:
    return Planner(GRAPH, analytic_table(GRAPH), DeviceConfig(servers=servers, **settings), options)


def test_a_policy_for_blocks_is_a_scheme_that_the_device_carries_out(tmp_path):
    path = policy_file(tmp_path, [0, 1, 2, 2])
    planner, choice = planner_of(policy=path), FixedChoice(0, DEVICE)
    compared = schemes(planner, choice, choice)
    assert list(compared)[:2] == [TRAINED_POLICY, PLANNER]
    assert (compared[TRAINED_POLICY].policy, compared[PLANNER].policy) == (None, planner.objective_policy)
    cuts = {cut for cut in compared[TRAINED_POLICY].options.cuts}
    assert planner.blocks is not None
    assert set(planner.blocks.cuts) <= cuts
    assert edge_options(DeviceConfig(policy=path))[-2:] == ["--peers", "any"]
    assert "--peers" not in edge_options(DeviceConfig())


def test_each_scheme_does_what_its_name_says():
    fast, slow = observation_at([1e9, 1e3]), observation_at([1e2, 1e2])
    assert device_only(OPTIONS)(fast).server[0] == DEVICE
    only = server_only(OPTIONS, GRAPH.inputs)
    for observation in (fast, slow):
        decision = only(observation)
        assert OPTIONS.cuts[decision.option[0]] == GRAPH.inputs
        assert decision.server[0] != DEVICE
    assert only(fast).server[0] == 0
    assert fixed_best(at_state(slow, [1e9, 1e3])).server == 0, "chosen at the mean rates, not at those of the moment"
    assert fixed_best(at_state(fast, [1e2, 1e2])).server == DEVICE
    cut = fixed_best(at_state(slow, [1e3, 1e9]))
    compared = schemes(planner_of(), cut, FixedChoice(len(OPTIONS.bits) - 1, DEVICE))
    assert list(compared) == [PLANNER, "device only", "server only", "fixed best cut", "best fixed choice"]
    assert compared["fixed best cut"].servers == ("b:1",), "it never adapts: it knows one server and one cut"
    assert compared["fixed best cut"].options.cuts[0] == OPTIONS.cuts[cut.option]
    assert compared["best fixed choice"].servers == ()
    here = planner_of((), OPTIONS.take(OPTIONS.is_local))
    assert "server only" not in schemes(here, FixedChoice(0, DEVICE), FixedChoice(0, DEVICE))
    trained = schemes(planner_of(policy=device_only(OPTIONS)), cut, cut)
    assert list(trained)[:2] == [TRAINED_POLICY, PLANNER]
    assert [name for name, scheme in trained.items() if scheme.hedges] == [TRAINED_POLICY, PLANNER]


@pytest.mark.parametrize("seed", range(5))
def test_no_fixed_choice_is_better_in_hindsight(seed: int):
    """Against plain loops, over phases in which a server is dead or crowded."""
    rng, planner = np.random.default_rng(seed), planner_of()
    seen = observation_at([1e6, 1e6])
    rates_bps = 10 ** rng.uniform(4, 8, (4, 2))
    states = [
        at_state(seen, rate, backlog, dead)
        for rate, backlog, dead in zip(rates_bps, rng.uniform(0, 0.5, 4), ((), (0,), (0,), ()), strict=True)
    ]
    found = best_in_hindsight(planner, states, states)
    last = len(OPTIONS.bits) - 1

    def mean_s(option: int, server: int) -> float:
        alone = [choice_latency_s(state, last, DEVICE, planner.computes) for state in states]
        own = [choice_latency_s(state, option, server, planner.computes) for state in states]
        return float(np.mean([a if np.isinf(b) else b for a, b in zip(alone, own, strict=True)]))

    all_s = [mean_s(option, server) for option in range(last) for server in (0, 1)]
    assert mean_s(found.option, found.server) == pytest.approx(min(*all_s, mean_s(last, DEVICE)))


def test_with_exits_rivals_use_the_last():
    graph = early_exits.build("alexnet-cifar-exits")
    options = compile_options(graph, analytic_table(graph), (32, 8), made_up_accuracy(graph))
    observation = observe(options, [], np.inf, 0.0)
    assert options.triples[device_only(options)(observation).option[0]] == (2, ("exit3",), 32)
    server = est.after_reply(est.first_server(1e6, 0.0), 0.0, 4, 0.0)
    decision = server_only(options, graph.inputs)(observe(options, [server], np.inf, 0.0))
    assert options.triples[decision.option[0]] == (2, graph.inputs, 8)


def record(i: int, latency_s: float, predicted_s: float = 0.1, fallback: str = "", scheme: str = "planner") -> Record:
    outcome = Outcome(latency_s / 2, latency_s / 2, 0.0, 0.0, 0.0, latency_s, 0.02, 1.0, True, latency_s <= 0.15)
    route = Route((Hop("device", ("input",), 8), Hop("a:1", ("logits",), 32)), 0, 0.15)
    return Record(scheme, i, 0.3 * i, 1e6, route, "a:1", fallback, predicted_s, 8e3, outcome)


def test_the_summary_is_what_the_records_say():
    own = [record(0, 0.1), record(1, 0.2, fallback="a:1: late"), record(2, 0.1), record(3, 0.4)]
    others = [record(i, 2 * one.outcome.latency_s, scheme="server only") for i, one in enumerate(own)]
    right = [True, True, False, True]
    rounds = [
        [Answer(i // 2, i, one, is_right), Answer(i // 2, i, other, True)]
        for i, (one, other, is_right) in enumerate(zip(own, others, right, strict=True))
    ]
    summary, behind = report.summarise(rounds)
    assert summary.requests == 4
    assert summary.mean_s == pytest.approx(0.2)
    assert summary.by_phase_s == pytest.approx((0.15, 0.25))
    assert summary.in_time == pytest.approx(0.5)
    assert summary.sent_bytes == pytest.approx(1000)
    assert summary.energy_j == pytest.approx(0.02)
    assert summary.fallbacks == 1
    assert summary.prediction_error == pytest.approx(0.25)
    assert summary.right == pytest.approx(0.75)
    assert summary.exits == (1.0,)
    assert 0.35 < summary.p95_s < 0.4
    assert (summary.behind, summary.behind_interval) == (0, 0)
    assert behind.behind == pytest.approx(1.0), "twice as long"
    spread = np.sqrt(2 * 0.05**2 * 2 + 2 * 0.15**2 * 2) * report.INTERVAL / 4  # within each phase
    assert summary.mean_interval_s == pytest.approx(spread)
    assert behind.behind_interval == pytest.approx(spread / 0.2)
    assert report.comparison([summary, behind], 0.15, View(("input",))).row_count == 2


def test_exits_and_labels_are_shown_where_there_are_any():
    early = record(0, 0.1)._replace(exit=1, route=record(0, 0.1).route._replace(exit=2))
    full, plain = View(("input",), True, True), View(("input",))
    assert report.choice_name(early, full) == "exit 2, sure"
    assert report.choice_name(record(0, 0.1), full) == "exit 1 (input)"
    assert report.choice_name(record(0, 0.1), plain) == "(input)"
    rounds = [[Answer(0, 0, early, True)], [Answer(0, 1, record(1, 0.2), False)]]
    table = report.comparison(report.summarise(rounds), 0.15, full)
    assert [column.header for column in table.columns][-2:] == ["right", "by exit, %"]
    assert list(table.columns[-1].cells) == ["50 50"]


def test_answers_through_codes_are_counted():
    through = record(0, 0.1).route._replace(hops=(Hop("device", ("code4",), 2), Hop("a:1", ("code4/answer",), 32)))
    coded = [record(i, 0.1)._replace(route=through) for i in range(4)]
    coded[1] = coded[1]._replace(executed_on="device", fallback="a:1: late")
    coded[2] = coded[2]._replace(route=through._replace(exit=1))
    plain = [record(i, 0.2, scheme="server only") for i in range(4)]
    rounds = [[Answer(0, i, coded[i], True), Answer(0, i, plain[i], True)] for i in range(4)]
    ours, theirs = report.summarise(rounds, ("code2", "code4"))
    assert ours.by_code == {"code2": 0.0, "code4": 0.5}, "one fell back to the device, one left at an exit before"
    assert theirs.by_code == {"code2": 0.0, "code4": 0.0}
    assert report.codes_text([ours, theirs]) == "through codes of the bottleneck: planner 50% code4"
    assert report.codes_text([theirs]) == "through codes of the bottleneck: no answer of any scheme"
    assert report.codes_text(report.summarise(rounds)) == ""


@pytest.mark.parametrize("name", ["alexnet-exits", "resnet12"])
def test_codes_are_among_what_the_planner_of_the_demo_chooses_from(name: str):
    graph, settings = open_model(name), demo_settings(name, {}, {})
    planner = Planner(graph, profile(graph), settings.device)
    assert any(graph.part(cut) is not graph for cut in planner.options.cuts)


def test_pictures_have_labels_for_networks_of_their_classes_only():
    assert load_pictures(open_model("alexnet-exits"), None).labels is not None
    assert load_pictures(open_model("resnet12"), None).labels is None, "ten other classes"


def test_the_story_is_the_same_on_every_machine():
    """A machine that is ten times slower is slowed ten times less, and links follow from the device's time."""
    settings = demo_settings("alexnet-exits", {}, {})
    fast, slow, large = (fitted(settings, whole_s) for whole_s in (0.0005, 0.005, 0.5))
    assert fast.device_slowdown == pytest.approx(10 * slow.device_slowdown)
    assert fast.deadline_s == slow.deadline_s < DEVICE_S
    for found, whole_s in ((fast, 0.0005), (slow, 0.005)):
        own_s = found.device_slowdown * whole_s
        served_s = [whole_s * slowdown / own_s for slowdown in found.edge_slowdowns]
        assert served_s == pytest.approx(SERVER_SHARES, rel=0.02)
    assert large.edge_slowdowns == (1, 1, 1), "no server is faster than this machine"
    assert large.device_slowdown == 6
    given = fitted(demo_settings("alexnet-exits", {}, {}, device_slowdown=9.0, deadline_s=0.1), 0.001)
    assert (given.device_slowdown, given.device.slowdown, given.deadline_s) == (9.0, 9.0, 0.1)
    for phase in PHASES:
        traces = phase_traces(phase, 4, 24e3, 0.4)
        good, faded = ([*shares, *shares[-1:]] for shares in (phase.picture_shares, phase.faded_shares))
        if not faded:
            assert [24e3 / trace.mean_bps / 0.4 for trace in traces] == pytest.approx(good)
            continue
        first, second, *_ = ([24e3 / rate_bps / 0.4 for rate_bps in rates] for rates in moments_bps(traces))
        assert first == pytest.approx([good[0], faded[1], good[2], faded[3]]), "links fade in turn"
        assert second == pytest.approx([faded[0], good[1], faded[2], good[3]])
    phase, traces = trace_phase(list(file_traces(str(TRACES), 3).values()), None, 24e3, 0.4)
    assert 24e3 / np.mean([trace.mean_bps for trace in traces]) == pytest.approx(PICTURE_SHARE * 0.4, rel=0.05)
    assert not phase.crowded


def test_settings_are_those_of_the_network_unless_told():
    small, plain = demo_settings("alexnet-exits", {}, {}), demo_settings("resnet50", {}, {})
    assert (small.device.bits, plain.device.bits) == (None, None)
    assert small.device.objective.min_accuracy > 0.7
    assert plain.device.objective.min_accuracy == 0.0
    assert plain.device.objective.power_w > 0, "energy is reckoned for every goal"
    energy = {"goal": "energy", "power_w": 2.0, "min_accuracy": None}
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
    three = file_traces(str(TRACES), 3)
    assert list(three) == ["near", "mid", "far"]
    one = file_traces(f"{TRACES}:far", 3)
    assert len(one) == 3
    rates = [trace.rate_at(0.0) for trace in one.values()]
    assert len(set(rates)) > 1
    first, second = list(one.values())[:2]
    assert second.rate_at(0.0) == first.rate_at(first.period_s / 3)


def test_an_unknown_trace_is_named_with_the_known(tmp_path: Path):
    with pytest.raises(TraceError, match="no trace 'moon'; it holds near, mid, far"):
        file_traces(f"{TRACES}:moon", 3)
    with pytest.raises(TraceError, match="no such file"):
        file_traces(str(tmp_path / "none.csv"), 3)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_live_picture_fits_a_terminal_of_120_columns(is_terminal: bool):
    view = View(("input",), has_exits=True, has_labels=True)
    hops = (Hop("device", ("exit2.conv.relu",), 16), Hop("127.0.0.1:37711", ("exit2",), 32))
    outcome = Outcome(0.1, 0.123, 0.123, 0.123, 0.123, 0.999, 0.0, 0.8, True, True)
    record = Record(
        "best fixed choice", 120, 1.0, 1.05e6, Route(hops, 1, 0.2), "127.0.0.1:37711", "", 0.1, 1e4, outcome, 1, ()
    )
    console = Console(width=120, force_terminal=is_terminal, no_color=True, file=io.StringIO())
    with LivePicture(console, ["best fixed choice"], PHASES, 10, view, 0.4) as live:
        live.begin(0)
        live.add([Answer(0, 0, record, True)])
    shown = console.file.getvalue()
    assert "…" not in shown
    for part in ("good links", "exit2.conv.relu", ":37711", "999", "right"):
        assert part in shown


class Refusing:
    """A transport whose servers refuse at first, then answer at once, a few times."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.is_closed = False

    def send(self, node: str, request: object, timeout_s: float) -> Future[object]:
        self.asked.append(node)
        done: Future[object] = Future()
        if len(self.asked) < 3:
            done.set_exception(RuntimeError("full"))
        elif len(self.asked) < 8:
            done.set_result(None)
        return done

    def close(self) -> None:
        self.is_closed = True


def test_a_crowd_keeps_asking_until_it_is_over(monkeypatch: pytest.MonkeyPatch):
    transport = Refusing()
    monkeypatch.setattr(crowd, "GrpcTransport", lambda: transport)
    with crowd.Crowd(None, ["a:1", "b:1"], 2):  # type: ignore[arg-type]
        pass
    assert len(transport.asked) == 11, "seven answers and refusals, each followed by another try, and four under way"
    assert set(transport.asked) == {"a:1", "b:1"}
    assert transport.is_closed


def test_an_edge_server_ends_with_who_started_it():
    with edges("alexnet-cifar", [1.0], ["--http-port", "-1"]) as [edge]:
        assert edge.process.stdin is not None
        edge.process.stdin.close()  # as the system does when the process that holds it is killed
        assert edge.process.wait(60.0) == 0

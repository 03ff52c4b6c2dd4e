"""A quick part of `make test-models`: some networks of each kind, most of them in this process."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from tests.networks import exported, generated, public, trained, written
from tests.networks.__main__ import _run_process, all_cases
from tests.networks.case import Case, samples
from tests.networks.case import written as written_file
from tests.networks.check import EQUAL, NOT_FETCHED, REFUSED, Outcome, WrongError, check, compared, session
from tests.networks.report import END, PAGE, START, write_report

from coinfer.errors import UserError
from coinfer.graph.onnx.load import from_proto, load
from coinfer.runtime.executor import Executor

CUTS = 6
LARGE = ("chain-2000", "chain-20000", "branches-2000")
WRITTEN = {case.name: case for case in written.cases()}
SMALL = [name for name in WRITTEN if name not in LARGE]


def assert_every_cut_equals(graph, feeds, whole) -> None:
    """Some cuts, run as head and tail, answer what the whole file answers."""
    executor = Executor(graph)
    inputs = {name: feeds[name] for name in graph.inputs}
    cuts = [cut.tensors for cut in graph.useful_cuts()]
    for cut in cuts[:: max(len(cuts) // CUTS, 1)]:
        head = executor.run(inputs, cut)[0]
        compared(executor.run(head, graph.outputs)[0], whole, cut)


@given(generated.networks(largest=12))
@settings(max_examples=25)
def test_generated_networks_answer_the_same_at_every_cut(model: onnx.ModelProto):
    whole = session(model.SerializeToString())
    case = Case("generated", "", "", "", Path)
    feeds = samples(whole, case)
    answers = dict(zip([value.name for value in whole.get_outputs()], whole.run(None, feeds), strict=True))
    assert_every_cut_equals(from_proto(model, "generated"), feeds, answers)


def assert_opens_and_answers(case: Case, folder: Path) -> None:
    path = written_file(case, folder)
    whole = session(path)
    feeds = samples(whole, case)
    answers = dict(zip([value.name for value in whole.get_outputs()], whole.run(None, feeds), strict=True))
    if case.refusal:
        with pytest.raises(UserError, match=case.refusal):
            load(path, case.shapes)
    else:
        assert_every_cut_equals(load(path, case.shapes), feeds, answers)


@pytest.mark.parametrize("name", SMALL)
def test_networks_written_by_hand(name: str, tmp_path: Path):
    assert_opens_and_answers(WRITTEN[name], tmp_path)


@pytest.mark.parametrize("part", range(4))
def test_small_graphs_of_the_onnx_package(part: int, tmp_path: Path):
    cases = public.small()[part::4]
    assert len(cases) > 25
    for case in cases:
        assert_opens_and_answers(case, tmp_path)


@pytest.mark.parametrize("name", ["mobilenet-v3-script", "llama-step-script-free", "siamese-script-opset7"])
def test_networks_exported_from_pytorch(name: str, tmp_path: Path):
    pytest.importorskip("torch")
    assert_opens_and_answers(next(case for case in exported.cases() if case.name == name), tmp_path)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["detector-nms", "if-by-data"])
def test_planned_and_run_with_an_edge_server(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = check(WRITTEN[name]._replace(is_small=name != "detector-nms"), tmp_path)
    assert found.verdict == EQUAL, found
    assert found.runs >= 2
    assert found.error == 0
    assert found.open_mib > 20


def test_a_refusal_by_design_is_no_failure(tmp_path: Path):
    found = check(WRITTEN["class-map"], tmp_path)
    assert (found.verdict, found.is_good) == (REFUSED, True)
    assert not check(WRITTEN["class-map"]._replace(refusal=""), tmp_path).is_good


def test_without_a_network_trained_files_are_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    case = trained.cases()[0]
    found = check(case, tmp_path)
    assert found.verdict == NOT_FETCHED
    assert "offline" in found.remark


def test_a_process_that_ends_early_costs_one_network():
    (found,) = _run_process(["no network is called so"], 120)
    assert (found.name, found.verdict) == ("no network is called so", "crash")


def test_a_process_that_hangs_is_ended():
    (found,) = _run_process(["bert-script"], 0.01)
    assert found.verdict == "hang"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (np.array([1.0, 2.001], np.float32), "differs by 5"),
        (np.array([1.0, np.nan], np.float32), "differs by inf"),
        (np.array([1.0, 2.0]), "is float64"),
        (np.array([[1.0, 2.0]], np.float32), "expected float32"),
    ],
)
def test_what_is_not_the_same_is_seen(answer: np.ndarray, problem: str):
    exact = {"y": np.array([1.0, 2.0], np.float32)}
    with pytest.raises(WrongError, match=problem):
        compared({"y": answer}, exact, ("x",))
    assert compared(exact, exact, ("x",)) == 0


def test_integers_and_what_is_not_finite_must_be_the_same():
    exact = {"i": np.array([3, 4]), "f": np.array([np.nan, np.inf, 1.0], np.float32)}
    assert compared(exact, exact, ()) == 0
    with pytest.raises(WrongError, match="'i' differs"):
        compared({**exact, "i": np.array([3, 5])}, exact, ())


def test_the_table_has_every_network_and_its_outcome(tmp_path: Path):
    cases = [WRITTEN["scan"], WRITTEN["strings"], WRITTEN["class-map"]._replace(is_small=True)]
    page = tmp_path / "networks.md"
    page.write_text(f"before\n{START}\nold\n{END}\nafter\n", encoding="utf-8")
    outcomes = [
        Outcome("scan", EQUAL, "", 12, 30, 2, 4, 0.0, 1.25, 99.6, 2.0),
        Outcome("strings", "open: refused", "a | b"),
        Outcome("class-map", REFUSED, "no maps"),
    ]
    write_report(cases, {found.name: found for found in outcomes}, page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| scan | Scan over time | 12 | 2 | 1.2 | 100 | 2.0 | 4 | 0 |" in text
    assert "| Written by hand | 3 | 1 | 1 | 0 | 1 |" in text
    assert "| strings | Text inside | open: refused | a \\| b |" in text


def test_every_network_has_a_name_of_its_own_and_the_page_has_these_and_no_others():
    cases = all_cases()
    names = {case.name for case in cases}
    assert len(names) == len(cases)
    tables = PAGE.read_text(encoding="utf-8").partition(START)[2].partition("###")[2]
    rows = [line.split("|")[1].strip() for line in tables.splitlines() if line.startswith("| ")]
    assert {case.name for case in cases if not case.is_small} <= set(rows) <= {*names, "Network", "---"}

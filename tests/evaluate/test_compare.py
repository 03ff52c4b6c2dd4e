"""`coinfer simulate` from a scenario's name to the files, and the mistakes that people make."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import typer
from rich.console import Console
from tests.envs.worlds import random_blocks, random_world
from typer.testing import CliRunner

from coinfer.cli import simulate as cli_simulate
from coinfer.cli.simulate import simulate
from coinfer.errors import UserError
from coinfer.evaluate import report
from coinfer.evaluate.compare import Settings, check_policies, compare
from coinfer.evaluate.simulate import MEASURES, Run
from coinfer.evaluate.statistics import Estimate, interval

QUICK = ("slots=8",)
APP = typer.Typer()
APP.command()(simulate)


def test_the_command_prints_a_table_and_saves_records_and_a_plot(tmp_path: Path):
    words = ["campus", "--policy", "greedy", "--policy", "sequential-greedy", "--seeds", "3", "--episodes", "1"]
    words += ["--bound", "--set", "slots=3", "--runs", str(tmp_path)]
    done = CliRunner().invoke(APP, words, env={"COLUMNS": "200"}, catch_exceptions=False)
    assert done.exit_code == 0
    for part in ("campus: 3 seeds of 1 episode of 3 slots", "sequential-greedy", "lower bound", "decisions/s"):
        assert part in done.output
    folder = tmp_path / "simulate-campus"
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert [(record["policy"], record["seed"]) for record in records][:4] == [
        ("greedy", 0), ("greedy", 1), ("greedy", 2), ("sequential-greedy", 0),
    ]  # fmt: skip
    assert (folder / "plot.png").stat().st_size > 10_000
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["settings"]["changes"] == ["slots=3"]
    assert len(summary["settings"]["fingerprint"]) == 64
    greedy = [record["mean_s"] for record in records if record["policy"] == "greedy"]
    assert summary["policies"][0]["mean_s"] == pytest.approx(interval(np.array(greedy))._asdict())


def test_a_narrow_terminal_cuts_no_figure(tmp_path: Path):
    words = ["grle", "--policy", "greedy", "--policy", "sequential-greedy", "--seeds", "2", "--episodes", "1"]
    words += ["--set", "slots=3", "--runs", str(tmp_path)]
    told = {}
    for columns in (80, 200):
        console = Console(width=columns, file=io.StringIO())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cli_simulate, "console", console)
            CliRunner().invoke(APP, words, catch_exceptions=False)
        told[columns] = console.file.getvalue()
        assert "…" not in told[columns]
        for name in ("mean ms", "p95 ms", "p99 ms", "in time %", "accuracy %", "energy mJ", "drops %", "Jain index"):
            assert name in told[columns]
        for name in ("in time/s", "timely accuracy %"):
            assert name in told[columns], "a world with exits"
    assert max(map(len, told[80].splitlines()[:-1])) <= 80
    assert told[80].count("greedy ") > told[200].count("greedy ")


def test_bounds_go_by_names(tmp_path: Path):
    names, few = (
        ("lower-bound", "slot-milp", "slot-descent", "greedy"),
        ("slots=2", "tasks_per_slot=3", "arrivals.tasks=3"),
    )
    found = compare(Settings("grle", names, 2, 1, changes=few))
    assert [run.policy for run in found.runs] == ["lower bound", *names[1:]]
    least_s = found.runs[0].measures["mean_s"]
    assert all((run.measures["mean_s"] >= least_s * (1 - 1e-5)).all() for run in found.runs)
    again = compare(Settings("grle", ("greedy",), 2, 1, bound=True, changes=few))
    assert again.runs[-1].measures["mean_s"] == pytest.approx(least_s)


def test_a_second_run_gets_a_folder_of_its_own(tmp_path: Path):
    found = [compare(Settings("grle", ("greedy",), 1, 1, changes=QUICK), results=tmp_path) for _ in range(2)]
    assert [one.folder.name for one in found if one.folder] == ["simulate-grle", "simulate-grle-2"]


def test_records_of_finished_policies_are_kept_when_a_later_one_is_stopped(tmp_path: Path):
    def stopped(done: int, total: int, name: str) -> None:
        if name == "best-cut":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(Settings("grle", ("greedy", "best-cut"), 2, 1, changes=QUICK), stopped, tmp_path)
    lines = (tmp_path / "simulate-grle" / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["policy"] for line in lines] == ["greedy", "greedy"]
    with pytest.raises(KeyboardInterrupt):
        compare(Settings("grle", ("best-cut",), 2, 1, changes=QUICK), stopped, tmp_path)
    assert not (tmp_path / "simulate-grle-2").exists(), "nothing was done, nothing is left"


def test_a_folder_that_cannot_be_written_is_found_before_anything_runs(tmp_path: Path):
    (tmp_path / "file").write_text("")

    def ran(*_: object) -> None:
        pytest.fail("it ran first")

    with pytest.raises(UserError, match="cannot write results here") as caught:
        compare(Settings("grle", ("greedy",), 1, 1, changes=QUICK), ran, tmp_path / "file" / "runs")
    assert "\n" not in str(caught.value)


def test_all_baselines_without_names_and_the_papers_greedy_as_reference():
    found = compare(Settings("mtl-a3c", seeds=1, episodes=1, changes=("slots=3",)))
    assert [run.policy for run in found.runs][:2] == ["rpdi", "apdi"]
    assert found.reference.policy == "greedy"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings("camus"), "did you mean campus"),
        (Settings("campus", ("gredy",)), "no policy 'gredy' for campus; did you mean greedy"),
        (Settings("campus", changes=("slotz=3",)), "slotz"),
        (Settings("campus", device="toaster"), "no such device"),
        (Settings("droo", bound=True), "--bound is for scenarios of environment offload or blocks"),
    ],
)
def test_mistakes_are_one_line(settings: Settings, message: str):
    with pytest.raises(UserError, match=message) as raised:
        compare(settings)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("estimate", "unit", "text"),
    [
        (Estimate(0.1234, 0.0042), 1e-3, "123.4 ±4.2"),
        (Estimate(0.1234, 0.042), 1e-3, "123 ±42"),
        (Estimate(1.0, 0.0), 0.01, "100.0 ±0.0"),
        (Estimate(0.98765, float("nan")), 0.01, "98.77"),
        (Estimate(float("nan"), float("nan")), 1.0, "-"),
        (Estimate(1234.5, 0.0001), 1.0, "1234.5 ±0.0"),
    ],
)
def test_figures_have_the_digits_that_the_interval_leaves(estimate: Estimate, unit: float, text: str):
    assert report.format_estimate(estimate, unit) == text


def test_unknown_policies_are_told_with_what_there_is():
    world = random_world(np.random.default_rng(4))
    check_policies(world, ["greedy", "slot-optimum"])
    with pytest.raises(UserError, match=r"^no policy 'gredy' for random; did you mean greedy\?$"):
        check_policies(world, ["gredy"])
    with pytest.raises(UserError, match="there are rpdi, apdi, device-only"):
        check_policies(random_blocks(np.random.default_rng(4)), ["slot-milp"])


def test_what_may_be_chance_is_dim():
    def made(name: str, mean_s: list[float]) -> Run:
        measures = {measure: np.zeros(3) for measure in MEASURES} | {"mean_s": np.array(mean_s)}
        return Run(name, measures, 1, 1.0)

    base, faster, same = made("a", [1.0, 2.0, 3.0]), made("b", [0.9, 1.9, 2.9]), made("c", [1.1, 1.9, 3.0])
    cells = list(report.difference_table([base, faster, same], base).columns[2].cells)
    assert cells == ["-100.00 ±0.00", "[dim]+0 ±248[/dim]"]

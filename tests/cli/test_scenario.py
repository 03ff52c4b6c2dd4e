from pathlib import Path

import pytest
from typer.testing import CliRunner

from coinfer.cli.scenario import app
from coinfer.errors import ScenarioError
from coinfer.options.network import load
from coinfer.scenario.load import PRESETS, preset_text

RUN = CliRunner()


def output(*arguments: str) -> str:
    result = RUN.invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_list_has_every_preset():
    text = output("list")
    assert all(name in text for name in PRESETS)


def test_show_prints_the_file_and_copies_it(tmp_path: Path):
    assert output("show", "grle") == preset_text("grle")
    copy = tmp_path / "mine.yaml"
    output("show", "grle", "-o", str(copy))
    assert copy.read_text(encoding="utf-8") == preset_text("grle")
    with pytest.raises(ScenarioError, match="there is such a file already"):
        output("show", "grle", "-o", str(copy))


def test_check_says_what_came_out(monkeypatch):
    monkeypatch.delenv("COINFER_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    text = output("check", "city", "--set", "slots=10", "--options")
    assert "10 slots of 0.1 s" in text
    assert "phone-entry" in text
    assert "note: links follow traces/synthetic.csv.gz" in text


def test_check_refuses_in_one_line(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text(preset_text("campus").replace("slots: 200", "slots: none"), encoding="utf-8")
    with pytest.raises(
        ScenarioError, match=r"mine.yaml:\d+: slots: got 'none', expected a whole number from 1 to 1000000$"
    ):
        output("check", str(path))


def test_profile_measures_what_scenarios_read(tmp_path: Path):
    path = tmp_path / "mine.json"
    output("profile", "alexnet-cifar", "-o", str(path))
    table = load(path)
    assert table.network == "alexnet-cifar"
    assert 1e-5 < table.whole_s < 1
    text = output("check", "campus", "--set", f"models.0.network={path}")
    assert "networks" in text


def test_profile_finds_out_first_whether_it_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("coinfer.runtime.profiling.measure_with_codec", lambda *_: pytest.fail("measured first"))
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*nowhere/table\.json'"):
        output("profile", "alexnet-cifar", "-o", str(tmp_path / "nowhere" / "table.json"))

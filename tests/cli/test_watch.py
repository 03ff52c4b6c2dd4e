"""`coinfer watch` as a user runs it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.video.clips import write_clip, write_gif

from coinfer.cli import main
from coinfer.errors import UserError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(*arguments: str) -> None:
    main.app(["watch", *arguments], standalone_mode=False)


def watched(*arguments: str) -> subprocess.CompletedProcess[str]:
    """As a process of its own, which has finished."""
    command = [sys.executable, "-m", "coinfer", "watch", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_every_frame_of_a_file_has_a_line_and_the_summary_adds_up(tmp_path: Path):
    clip = str(write_clip(tmp_path / "clip.mp4", 12))
    said = watched(clip, "alexnet-cifar", "--fast", "--out", "found.jsonl", "--top", "2").stdout
    lines = [json.loads(line) for line in Path("found.jsonl").read_text().splitlines()]
    assert sorted(line["frame"] for line in lines) == list(range(12))
    assert {line["by"] for line in lines} == {"device"}
    assert all(len(line["classes"]) == 2 and line["latency_s"] > 0 for line in lines)
    assert "12 answered, 0 skipped" in said
    assert "answered by device 100%; 0.00 MB sent" in said
    assert "latency p50" in said


def test_lines_are_printed_and_the_summary_is_not_among_them(tmp_path: Path):
    gif = str(write_gif(tmp_path / "four.gif"))
    done = watched(gif, "alexnet-cifar", "--fast", "--out", "-", "--page", "0")
    assert sorted(json.loads(line)["frame"] for line in done.stdout.splitlines()) == [0, 1, 2, 3]
    assert "see http://127.0.0.1:" in done.stderr
    assert "4 answered" in done.stderr


def test_an_interrupt_ends_with_the_summary(tmp_path: Path):
    clip = write_clip(tmp_path / "long.mp4", 600, fps=5)
    # What runs in the background ignores interrupts.
    heeding = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    start = f"{heeding}; runpy.run_module('coinfer', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-c", start, "watch", str(clip), "alexnet-cifar", "--out", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        assert first, f"it ended, {process.wait(120)}: {process.stderr.read()}"
        assert json.loads(first)["by"] == "device"
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        said = process.stderr.read()
        assert process.wait(120) == 0, said
    assert "answered by device 100%" in said
    assert "Traceback" not in said


def test_wrong_wishes_are_one_line(tmp_path: Path):
    gif = str(write_gif(tmp_path / "four.gif"))
    with pytest.raises(UserError, match=r"none\.mp4: no such file"):
        run("none.mp4", "alexnet-cifar")
    with pytest.raises(UserError, match="--bits '7': expected some of"):
        run(gif, "alexnet-cifar", "--bits", "7")

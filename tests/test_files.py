"""What is written replaces the old file whole, or not at all."""

import subprocess
import sys
from pathlib import Path

import pytest

from coinfer.files import write_atomic

FULL_DISK = """
import resource, sys
from coinfer.files import write_atomic

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_atomic(sys.argv[1], "x" * 10_000)
except OSError as error:
    print(error.filename, error.strerror)
"""


def test_the_new_text_stands_in_place_of_the_old(tmp_path: Path):
    path = tmp_path / "table.json"
    for text in ("one", "two, with ümlaut"):
        write_atomic(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_text_and_nothing_beside(tmp_path: Path):
    path = tmp_path / "table.json"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{path} File too large")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_nothing_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "plot.png"
    write_atomic(path, b"\x89PNG")
    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"\x89PNG"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(OSError, match="No such file or directory") as caught:
        write_atomic(tmp_path / "nowhere" / "table.json", "text")
    assert caught.value.filename == str(tmp_path / "nowhere" / "table.json")

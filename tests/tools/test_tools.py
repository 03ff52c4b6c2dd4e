"""The programs that make the shipped data start, and what they made is what is shipped."""

import gzip
import io
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"
WITH_ARGUMENTS = sorted(path.name for path in TOOLS.glob("*.py") if "argparse" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", WITH_ARGUMENTS)
def test_every_tool_starts(name: str):
    done = subprocess.run([sys.executable, TOOLS / name, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"python tools/{name}" in done.stdout


def test_every_tool_is_in_the_table():
    table = (TOOLS / "README.md").read_text(encoding="utf-8")
    for path in TOOLS.glob("*.py"):
        assert f"`{path.name}`" in table, path.name


def test_shipped_arrivals_begin_as_their_tool_writes_them():
    tool = runpy.run_path(str(TOOLS / "make_arrivals.py"))
    rows = ["03.9799600,4808,10", "04.0319600,3180,8", "04.0781490,110,27", "04.1206440,7433,14", "33.4590290,1555,19"]
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens\n", *(f"2023-11-16 18:17:{row}\n" for row in rows)]
    written = tool["text"](lines)
    assert written == "time_s\n0.000\n0.052\n0.098\n0.141\n29.479\n"
    shipped = gzip.decompress(tool["TARGET"].read_bytes()).decode()
    assert shipped.startswith(written.removesuffix("29.479\n"))


def test_photographs_are_made_small_and_small_ones_keep_their_size(tmp_path: Path):
    tool = runpy.run_path(str(TOOLS / "make_photos.py"))
    for size, expected in (((1024, 600), (512, 300)), ((376, 263), (376, 263))):
        Image.new("RGB", size, (200, 30, 90)).save(tmp_path / "one.png")
        with Image.open(io.BytesIO(tool["small"](tmp_path / "one.png"))) as made:
            assert (made.format, made.size) == ("JPEG", expected)

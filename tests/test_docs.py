"""What the documentation shows works: every Python snippet runs, every command exists with these options."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
from tests.forked import run_python
from tests.paths import ROOT
from typer.testing import CliRunner

import coinfer
from coinfer.cli.main import app
from coinfer.demo.cluster import edges

PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md"]
)
GROUPS = ("exits", "scenario", "ca", "experience", "policy", "bottleneck")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (f"{page.relative_to(ROOT)}:{page.read_text()[: match.start()].count(chr(10)) + 1}", match[2])
        for page in PAGES
        if page.exists()
        for match in BLOCK.finditer(page.read_text())
        if match[1] == language
    ]


def commands() -> list[tuple[str, str]]:
    return [
        (where, line.split("#")[0].strip().removesuffix("&").strip())
        for where, block in blocks("bash")
        for line in block.splitlines()
        if line.strip() and not line.startswith("#")
    ]


@pytest.fixture(scope="module")
def edge_address():
    with edges("resnet32", [1.0]) as running:
        yield running[0].address


@pytest.mark.parametrize(("where", "code"), blocks("python"), ids=lambda value: value if "\n" not in value else "")
def test_python_snippets_run(where: str, code: str, tmp_path: Path):
    (tmp_path / "snippet.py").write_text(code)
    done = run_python(tmp_path / "snippet.py", (), tmp_path)
    assert done.returncode == 0, f"{where}:\n{done.stderr}"


@pytest.mark.parametrize(("where", "line"), commands())
def test_commands_exist_with_their_options(where: str, line: str):
    """Runs what is cheap; of the rest, every option must be known to the command."""
    words = shlex.split(line)
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets, where
    elif words[0] == "coinfer":
        command = (
            words[1:3] if words[1] in ("exits", "scenario", "ca", "experience", "policy", "bottleneck") else words[1:2]
        )
        shown = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
        assert "Usage" in shown, f"{where}: no command {' '.join(command)}"
        for option in (word.split("=")[0] for word in words[2:] if word.startswith("-")):
            assert option in shown, f"{where}: {' '.join(command)} has no {option}"
    elif words[0] in ("python", ".venv/bin/python", "node"):
        assert (ROOT / words[1]).exists() or words[1] == "-m", f"{where}: no {words[1]}"
    elif words[0] in ("docker", "kubectl", "systemctl", "cp"):
        named = [word for word in words[1:] if word.startswith("deploy/")]
        units = [f"deploy/systemd/{word}.service" for word in words[1:] if word.startswith("coinfer-")]
        assert all((ROOT / name).exists() for name in (*named, *units)), f"{where}: {line}"
    else:
        assert words[0] in ("pip", "git", "cd", "curl", ".venv/bin/ruff"), f"{where}: {line}"


@pytest.mark.parametrize("line", sorted({line for _, line in commands() if line.startswith("coinfer plan")}))
def test_plan_commands_run(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    coinfer.save_model(coinfer.open_model("resnet32"), tmp_path / "mynet.onnx")  # stands for the reader's own file
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, shlex.split(line)[1:])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("example", "arguments", "said"),
    [
        ("device.py", ["resnet32", "EDGE"], r"cat\.jpg: class \d from \S+ in \d+ ms"),
        ("plan_offline.py", [], r"0\.1 Mbit/s: cut after .*\n(.*\n){7}.*1000\.0 Mbit/s: cut after input"),
        ("stock_client.py", ["EDGE"], r"ready: True logits: \(2, 10\)"),
        ("torch_module.py", [], r"after 3 operations: \S+ \(1, 3600\)"),
    ],
)
def test_examples_say_what_they_should(
    example: str, arguments: list[str], said: str, edge_address: str, tmp_path: Path
):
    words = [edge_address if word == "EDGE" else word for word in arguments]
    done = run_python(ROOT / "examples" / example, words, tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(said, done.stdout), done.stdout


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md", "docs/extending.md"])
def test_places_that_guides_name_exist(page: str):
    """Paths between backticks, from the root or from the package."""
    named = re.findall(r"`([\w./-]+(?:/|\.py|\.md|\.yaml))`", (ROOT / page).read_text(encoding="utf-8"))
    assert len(named) > 10
    missing = [name for name in named if not any((top / name).exists() for top in (ROOT, ROOT / "src/coinfer"))]
    assert missing == []


def test_the_picture_of_the_packages_is_that_of_the_enforced_layers():
    """Run `python tools/draw_architecture.py` after a change of the layers in pyproject.toml."""
    tool = runpy.run_path(str(ROOT / "tools" / "draw_architecture.py"))
    assert (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8") == tool["svg"]()
    packages = {
        path.stem
        for path in (ROOT / "src/coinfer").iterdir()
        if path.suffix == ".py" or path.joinpath("__init__.py").exists()
    }
    assert (
        packages - {"__init__", "__main__"} == {name for row in tool["layers"]() for name in row} == set(tool["PARTS"])
    )

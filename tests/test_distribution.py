"""A release works alone: the sdist builds the wheel, the wheel runs in a fresh environment, all data is attributed."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

import pytest

from coinfer.version import __version__

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv*", "runs", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis"
)
DATA = ROOT / "src/coinfer/data"
LICENCES = re.compile(r"Apache-2\.0|MIT|BSD-3-Clause|CC-BY-4\.0")
OPEN_SHIPPED = """
import coinfer
from coinfer.runtime.images import load_images
print(coinfer.__file__, coinfer.open_model("alexnet-exits").outputs, len(load_images()))
"""


def run(*command: str | Path, where: Path) -> str:
    """Run away from the checkout, with nothing of it on the path."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"XDG_CACHE_HOME": str(where / "cache"), "NO_COLOR": "1", "COLUMNS": "200"}
    done = subprocess.run(
        [str(word) for word in command], cwd=where, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, so that nothing is built inside it."""
    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("sdist") / "source", ignore=LEFT_OUT))


@pytest.fixture(scope="module")
def sdist(source: Path) -> Path:
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(source.parent)!r})"
    run(sys.executable, "-c", build, where=source)
    (built,) = source.parent.glob("*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """Built from the sdist, so that what the sdist lacks is missing here."""
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation")
    run(*pip, "--wheel-dir", sdist.parent, sdist, where=sdist.parent)
    (built,) = sdist.parent.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def scripts(wheel: Path) -> Path:
    """The scripts of a fresh environment: the wheel, and what it depends on as this environment has it."""
    home = wheel.parent / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", home, where=wheel.parent)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(home), "platbase": str(home)}))
    dependencies = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (packages / "dependencies.pth").write_text("\n".join(dependencies), encoding="utf-8")
    pip = (sys.executable, "-m", "pip", "--python", home / "bin" / "python", "install", "--no-deps", "--no-index")
    run(*pip, wheel, where=wheel.parent)
    return home / "bin"


def test_the_sdist_holds_the_whole_repository(source: Path, sdist: Path):
    with tarfile.open(sdist) as archive:
        held = {PurePosixPath(*PurePosixPath(name).parts[1:]).as_posix() for name in archive.getnames()}
    files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    wanted = {name for name in files if not name.startswith((".ci", ".gitignore")) and ".egg-info/" not in name}
    assert wanted - held == set()
    assert {"LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml"} <= held


def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (info,) = {PurePosixPath(name).parts[0] for name in names if ".dist-info/" in name}
        metadata = HeaderParser().parsestr(archive.read(f"{info}/METADATA").decode())
    package = {name for name in names if not name.startswith(info)}
    source = ROOT / "src"
    assert package == {
        path.relative_to(source).as_posix()
        for path in (source / "coinfer").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"].startswith("Apache-2.0")
    licences = {name.removeprefix(f"{info}/licenses/") for name in names if name.startswith(f"{info}/licenses/")}
    attributions = {path.relative_to(ROOT).as_posix() for path in DATA.rglob("ATTRIBUTION.md")}
    assert licences == {"LICENSE", *attributions}


def test_the_command_runs_outside_the_checkout(scripts: Path, tmp_path: Path):
    assert run(scripts / "coinfer", "--version", where=tmp_path) == f"coinfer {__version__}\n"
    shown = run(scripts / "coinfer", "plan", "alexnet-cifar", "--device", "raspberry-pi-4", where=tmp_path)
    assert "Mbit/s" in shown


def test_shipped_data_is_found_outside_the_checkout(scripts: Path, tmp_path: Path):
    shown = run(scripts / "python", "-c", OPEN_SHIPPED, where=tmp_path)
    assert shown.startswith(str(scripts.parent))
    assert shown.endswith("('exit1', 'exit2', 'exit3') 6\n")


def test_all_data_names_its_source_and_licence():
    """A file stands with a licence in its folder's ATTRIBUTION.md, or it or its folder in the one above."""
    above = (DATA / "ATTRIBUTION.md").read_text(encoding="utf-8").splitlines()
    for path in (path for path in DATA.rglob("*") if path.is_file() and path.name != "ATTRIBUTION.md"):
        own = path.parent / "ATTRIBUTION.md"
        rows, names = above, [f"`{path.name}`", f"`{path.relative_to(DATA).parts[0]}/`"]
        if own.exists():
            rows, names = own.read_text(encoding="utf-8").splitlines(), [f"`{path.name}`"]
        assert any(LICENCES.search(row) for row in rows if any(name in row for name in names)), path

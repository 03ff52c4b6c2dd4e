"""Device and edge on a platform that lacks what only POSIX has, on a disk that cannot be written, and for a user
without a home. The hook in `hooks` takes these things away from a real device and a real edge server."""

import ast
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.paths import ROOT
from tests.platforms.hooks import sitecustomize as hook

from coinfer.graph.segment import save_model
from coinfer.graph.zoo import networks

HOOKS = Path(__file__).parent / "hooks"
SOURCES = sorted((ROOT / "src" / "coinfer").rglob("*.py"))
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
SCRIPT = """
import re, subprocess, sys
import numpy as np
import coinfer
from coinfer.types import Hop, Route

command = [sys.executable, "-m", "coinfer", "edge", sys.argv[1], "--grpc-port", "0", "--http-port", "0"]
edge = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
try:
    address = re.search(r"grpc=(\\S+)", edge.stdout.readline())[1]
    with coinfer.Device(sys.argv[1], servers=[address], hedge=False, profile=sys.argv[2] or None) as device:
        picture = np.zeros((32, 32, 3), np.uint8)
        graph = device.graph
        cut = graph.useful_cuts()[2].tensors
        there = Route((Hop("device", cut, 32), Hop(address, graph.outputs, 32)), 0, float("inf"))
        here = Route((Hop("device", graph.outputs, 32),), 0, float("inf"))
        for _ in range(100):  # a busy machine may miss a ping
            result = device.infer_by_route(picture, there)
            if result.executed_on == address:
                break
        assert result.executed_on == address, result.fallback
        np.testing.assert_allclose(result.output, device.infer_by_route(picture, here).output, rtol=1e-4, atol=1e-5)
finally:
    edge.terminate()
assert edge.wait(120) == 0
print("ran")
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "alexnet-cifar.onnx"
    save_model(networks.build("alexnet-cifar"), path)
    return path


def ran(lacks: str, *arguments: str | Path, cache: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python, and every Python that it starts, without something."""
    path = os.pathsep.join([str(HOOKS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "COINFER_TEST_LACKS": lacks, "PYTHONDONTWRITEBYTECODE": "1"}
    if cache is not None:
        environment["XDG_CACHE_HOME"] = str(cache)
    else:
        environment.pop("XDG_CACHE_HOME", None)
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


def test_device_and_edge_run_where_posix_is_missing(model: Path, tmp_path: Path):
    done = ran("posix", "-c", SCRIPT, model, "", cache=tmp_path)
    assert done.stdout == "ran\n", done.stderr
    assert "Traceback" not in done.stderr


def test_every_module_of_device_and_edge_is_imported_where_posix_is_missing():
    names = [name for name in _modules() if name.startswith(("coinfer.runtime", "coinfer.cli", "coinfer.graph"))]
    script = f"import importlib\nfor name in {names!r}: importlib.import_module(name)\nprint(len({names!r}))"
    assert ran("posix", "-c", script).stdout == f"{len(names)}\n"


def _modules() -> Iterator[str]:
    for path in SOURCES:
        name = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        if not name.endswith("__main__"):
            yield name


@pytest.fixture(scope="module")
def profile(model: Path) -> Path:
    path = model.with_suffix(".profile.json")
    done = ran("", "-m", "coinfer", "profile", model, "-o", path, cache=model.parent)
    assert done.returncode == 0, done.stderr
    return path


def test_device_and_edge_need_no_disk_that_can_be_written(model: Path, profile: Path, tmp_path: Path):
    done = ran("disk", "-c", SCRIPT, model, profile, cache=tmp_path)
    assert done.stdout == "ran\n", done.stderr


def test_measuring_on_a_disk_that_cannot_be_written_is_refused_in_one_line(model: Path, tmp_path: Path):
    done = ran("disk", "-m", "coinfer", "plan", model, cache=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: measuring ")
    assert "TMPDIR" in done.stderr
    assert "--profile" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_user_without_home_and_entry_measures_plans_and_serves(model: Path):
    done = ran("user", "-c", SCRIPT, model, "")
    assert done.stdout == "ran\n", done.stderr


def _lacking(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Yield what a file uses that Windows lacks."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from ((node, name) for name in names if name in hook.LACKING_MODULES)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            known = {"os": hook.LACKING_OS, "signal": [*hook.LACKING_SIGNALS, "SIGKILL"]}.get(node.value.id, ())
            if node.attr in known or node.attr == "add_signal_handler":
                yield node, node.attr


def test_what_windows_lacks_is_asked_for_before_it_is_used():
    unasked = []
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        for node, name in _lacking(ast.parse(text)):
            lines = text.splitlines()[max(node.lineno - 4, 0) : node.lineno]
            if not any(f'"{name}"' in line or line.strip() == "try:" for line in lines):
                unasked.append(f"{path.name}:{node.lineno}: {name}")
    assert unasked == []


@pytest.mark.parametrize("version", VERSIONS)
def test_every_file_is_one_of_this_version_of_python(version: str):
    """Its syntax, and every name that it imports from the standard library."""
    script = "\n".join(
        [
            "import ast, importlib, sys",
            "for path in sys.argv[1:]:",
            "    tree = ast.parse(open(path, encoding='utf-8').read(), path)",
            "    for node in ast.walk(tree):",
            "        module = isinstance(node, ast.ImportFrom) and node.module or ''",
            "        if module.split('.')[0] in sys.stdlib_module_names:",
            "            for alias in node.names:",
            "                assert hasattr(importlib.import_module(module), alias.name), (path, alias.name)",
            "print('fits')",
        ]
    )
    done = subprocess.run(
        [python(version), "-c", script, *map(str, SOURCES)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "fits\n", done.stderr


def python(version: str) -> str:
    """Return an interpreter of a version: this one, one on the path, or one that pyenv keeps."""
    if sys.version.startswith(f"{version}."):
        return sys.executable
    kept = map(str, Path(sys.base_prefix).parent.glob(f"{version}.*/bin/python"))
    candidates = [*kept, f"python{version}"]
    for candidate in candidates:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run([candidate, "-c", ""], capture_output=True, check=True)
            return candidate
    pytest.skip(f"no Python {version} here")

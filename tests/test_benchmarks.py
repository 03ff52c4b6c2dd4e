"""Every benchmark runs and leaves a record that makes sense; what the figures are is for the real runs to say."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from tests.paths import ROOT

SCRIPTS = (
    "codec",
    "cold_start",
    "gateway",
    "import_networks",
    "large_networks",
    pytest.param(
        "loadgen",
        marks=pytest.mark.skipif(importlib.util.find_spec("mlperf_loadgen") is None, reason="LoadGen is not installed"),
    ),
    "overload",
    "partition",
    "planning",
    "split_latency",
    "split_overhead",
    "tensors",
    "throughput",
)
FIGURES = {
    "cold_start": 3,
    "gateway": 4,
    "import_networks": 4,
    "large_networks": 4,
    "loadgen": 8,
    "planning": 3,
    "split_latency": 29,
    "split_overhead": 2,
    "tensors": 16,
    "throughput": 3,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Measured profiles are shared among the scripts, and nothing is left in the user's cache."""
    return tmp_path_factory.mktemp("home")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_quick_run_leaves_a_sane_record(name, home):
    output = home / f"{name}.json"
    command = [sys.executable, f"benchmarks/{name}.py", "--quick", "--output", str(output)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    record = json.loads(output.read_text())
    assert record["command"] == " ".join(["python", *command[1:]])
    assert record["quick"]
    assert record["machine"]["cores"] >= 1
    figures = record.get("figures", {})
    assert len(figures) == FIGURES.get(name, 0)
    for label, found in figures.items():
        assert 0 <= found["low"] <= found["median"] <= found["high"], label
        if "at_most" in found:
            assert found["reached"] == (found["median"] <= found["at_most"])


def test_two_checkouts_are_compared_figure_by_figure(home):
    output = home / "before_after.json"
    command = [sys.executable, "benchmarks/before_after.py", str(ROOT), "--only", "planning", "--quick"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command += ["--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    figures = json.loads(output.read_text())["figures"]
    assert len(figures) == FIGURES["planning"]
    assert all(found["median"] > 0 for found in figures.values())


def test_a_record_of_a_quick_run_is_never_kept():
    for path in (ROOT / "benchmarks/results").glob("*.json"):
        assert not json.loads(path.read_text()).get("quick"), path.name

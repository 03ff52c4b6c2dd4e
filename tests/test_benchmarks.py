"""Every benchmark runs and leaves a record that makes sense; what the figures are is for the real runs to say."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from tests.paths import ROOT
from tests.site.test_page import CHROMIUM

SCRIPTS = (
    pytest.param("batching", marks=pytest.mark.slow),
    "codec",
    "cold_start",
    "gateway",
    "import_networks",
    "large_networks",
    pytest.param("loading", marks=pytest.mark.slow),
    pytest.param(
        "loadgen",
        marks=pytest.mark.skipif(importlib.util.find_spec("mlperf_loadgen") is None, reason="LoadGen is not installed"),
    ),
    pytest.param(
        "on_policy",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(importlib.util.find_spec("stable_baselines3") is None, reason="no stable-baselines3"),
        ],
    ),
    pytest.param("page", marks=[pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]),
    "partition",
    "planning",
    "regret",
    pytest.param("split_latency", marks=pytest.mark.slow),
    pytest.param("split_overhead", marks=pytest.mark.slow),
    pytest.param("tensors", marks=pytest.mark.slow),
    "throughput",
    pytest.param("video", marks=pytest.mark.slow),
)
FIGURES = {
    "batching": 20,
    "cold_start": 3,
    "gateway": 4,
    "import_networks": 4,
    "large_networks": 4,
    "loading": 13,
    "loadgen": 8,
    "on_policy": 24,
    "page": 7,
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
        assert found["low"] <= found["median"] <= found["high"], label
        assert found["low"] >= 0 or "return" in label, label
        if "at_most" in found:
            assert found["reached"] == (found["median"] <= found["at_most"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "part"), [(("regret", "--real"), "real"), (("demo_machines", "--only", "one core"), "machines")]
)
def test_a_quick_run_with_real_processes_leaves_a_record(options, part, home):
    output = home / "real.json"
    script, *more = options
    command = [sys.executable, f"benchmarks/{script}.py", *more, "--quick", "--output", str(output)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())[part]
    if part == "machines":
        planner = found["one core"]["schemes"]["planner"]
        assert len(planner["by_phase_ms"]) == 5
        return
    assert found[0]["requests"] >= 10, "each fixed choice was measured"
    assert found[0]["clairvoyant_s"] > 0


FAULTS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "malformed": lambda r: all(
        one["requests"] == 200 and not one["not_blaming_the_caller"] and one["alive"] and not one["logged_errors"]
        for one in (r["edge, grpc"], r["edge, http"], r["gateway, grpc"], r["gateway, http"])
    ),
    "freezes": lambda r: r["device"]["lost"] == 0 < r["device"]["requests"],
    "restarts": lambda r: (
        r["device"]["lost"] == r["device"]["not_ended_with_0"] == r["device"]["not_announced"] == 0
        and r["device"]["faults"] == 2 < r["device"]["requests"]
    ),
    "cancels": lambda r: all(
        one["released_after_s"] is not None and one["held_then"] == one["logged_errors"] == 0 and one["answers_then"]
        for one in (r["edge-grpc"], r["edge-http"], r["gateway-grpc"], r["gateway-http"])
    ),
    "deadlines": lambda r: all(
        one["began_late"] == one["without_a_reason"] == 0 and one["requests"] >= 60
        for one in (r["edge-grpc"], r["edge-http"], r["gateway-grpc"], r["gateway-http"])
    ),
    "failing": lambda r: all(
        one["lost"] == 0 < one["requests"] and one["faults"] for one in (r["device"]["one"], r["device"]["all"])
    ),
    "alone": lambda r: (
        r["device"]["lost"] == r["device"]["not_by_device_then"] == r["device"]["never_used_again"] == 0
        and r["device"]["requests_while_alone"] > 0
    ),
    "inputs": lambda r: (
        all(
            one["codes"] == {"INVALID_ARGUMENT": 150} and not one["nameless"] and not one["reached_the_network"]
            for one in (r["edge-grpc"], r["edge-http"], r["gateway-grpc"], r["gateway-http"])
        )
        and r["odd numbers"] == {"tensors": 10, "changed": 0}
        and not any("OK" in one["codes"] or "INTERNAL" in one["codes"] for one in r["over limits"].values())
    ),
    "sizes": lambda r: (
        all(r["edges"][one][p] == {"OK": 2} for one in ("limit -1", "limit +0") for p in ("grpc", "http"))
        and r["edges"]["limit +1"]["grpc"] == {"RESOURCE_EXHAUSTED": 2}
        and "OK" not in r["edges"]["limit +1"]["http"]
        and not any("OK" in one["codes"] or "INTERNAL" in one["codes"] for one in r["bombs"].values())
        and r["alive"]
        and not r["logged_errors"]
    ),
    "fairness": lambda r: (
        r["edge-grpc"]["not_refused_with_a_reason"] == 0 < r["edge-grpc"]["requests"]
        and r["edge-grpc"]["others_goodput"].keys() == {"calm", "beside_greed"}
    ),
    "overload": lambda r: all(
        one["ends"].keys() <= {"answered", "queue_full", "hopeless", "expired"} and one["ends"]["answered"]
        for one in (r["edge-grpc"]["3x"], r["edge-grpc"]["6x"])
    ),
    "floods": lambda r: r["edge-grpc"]["others_lost"] == 0 == r["edge-grpc"]["logged_errors"],
    "soak": lambda r: not any(r[name]["lost"] for name in ("edge-grpc", "edge-http", "gateway-grpc", "gateway-http")),
}
"""What holds of each kind of fault on any machine."""


@pytest.mark.parametrize("kind", [k if k == "malformed" else pytest.param(k, marks=pytest.mark.slow) for k in FAULTS])
def test_a_few_faults_lose_nothing(kind, home):
    output = home / f"{kind}.json"
    command = [sys.executable, "benchmarks/faults.py", kind, "--quick", "--output", str(output)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    record = json.loads(output.read_text())
    assert FAULTS[kind](record), record


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

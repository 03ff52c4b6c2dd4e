"""The benchmarks of the simulated edge run and leave records with all their figures; real runs say what these are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.paths import ROOT

FIGURES = {"simulator": 19, "adapters": 14, "service_order": 14, "frame_decisions": 11}
"""How many each has."""
QUICK = ("service_order",)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FIGURES]
)
def test_a_quick_run_leaves_all_figures(name: str, tmp_path: Path):
    output = tmp_path / f"{name}.json"
    command = [sys.executable, f"benchmarks/{name}.py", "--quick", "--output", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    record = json.loads(output.read_text())
    assert record["quick"]
    assert len(record["figures"]) == FIGURES[name]
    for label, found in record["figures"].items():
        if "departure" in found:
            ratio = found["arrival_order_s"] / found["slot_order_s"] - 1
            assert found["departure"] == pytest.approx(ratio, abs=1e-3), label
        else:
            assert 0 < found["low"] <= found["median"] <= found["high"], label

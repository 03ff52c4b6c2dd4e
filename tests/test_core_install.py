"""A device and an edge server need no PyTorch: the core installs, imports and runs without it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.paths import ROOT

from coinfer.graph.segment import save_model
from coinfer.graph.zoo import networks

SCRIPT = """
import importlib.util, pkgutil, re, subprocess, sys, time
import numpy as np
import coinfer
from coinfer.runtime.images import load_images
from coinfer.types import DEVICE, OffloadDecision

absent = ("torch", "matplotlib", "sklearn", "pandas", "openvino", "pytest")
assert not any(importlib.util.find_spec(name) for name in absent), "the core pulls in what it should not"
training = ("coinfer.envs", "coinfer.rl", "coinfer.exit_training", "coinfer.policies", "coinfer.evaluate")
training += ("coinfer.checkpoint", "coinfer.site.trainer")
training += ("coinfer.physics.queueing", "coinfer.physics.random", "coinfer.physics.serving")
training += ("coinfer.physics.wireless_power", "coinfer.physics.frame_rates")
for module in pkgutil.walk_packages(coinfer.__path__, "coinfer."):
    if not module.name.startswith(training) and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
importlib.import_module("coinfer.policies.frame_onnx")

command = [sys.executable, "-m", "coinfer", "edge", sys.argv[1], "--grpc-port", "0", "--http-port", "0"]
edge = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
try:
    address = re.search(r"grpc=(\\S+)", edge.stdout.readline())[1]
    picture = load_images()[0][1]
    with coinfer.Device(sys.argv[1], servers=[address], bits=(32,), hedge=False) as device:
        last = len(device.options.bits) - 1
        for _ in range(100):  # it is not asked yet where the machine was too busy for its first probes
            remote = device.infer(picture, policy=lambda _: OffloadDecision(np.array([0]), np.array([0])))
            if remote.executed_on == address:
                break
            time.sleep(0.1)
        local = device.infer(picture, policy=lambda _: OffloadDecision(np.array([last]), np.array([DEVICE])))
    assert remote.executed_on == address, remote
    assert local.executed_on == "device", local
    np.testing.assert_allclose(remote.output, local.output, rtol=1e-4, atol=1e-5)
    assert "torch" not in sys.modules
finally:
    edge.terminate()
assert edge.wait(120) == 0
print("ran without torch")
"""


@pytest.mark.timeout(900)
def test_core_installs_and_runs_without_torch(tmp_path: Path):
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)  # pip would take away what is installed there
    subprocess.run([*install, "-c", ROOT / "constraints.txt", str(ROOT)], check=True, cwd=tmp_path, env=environment)
    save_model(networks.build("resnet32"), tmp_path / "resnet32.onnx")
    command = [python, "-c", SCRIPT, str(tmp_path / "resnet32.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ran without torch" in done.stdout

"""examples/sb3.py as a user runs it, with fewer steps."""

import runpy

import numpy as np
import pytest
from tests.envs.worlds import random_world
from tests.paths import ROOT

from coinfer.envs.adapters.gymnasium_env import EdgeVector
from coinfer.envs.adapters.sb3_env import Sb3Vector

EXAMPLE = ROOT / "examples" / "sb3.py"


@pytest.mark.slow
def test_ppo_learns(capsys: pytest.CaptureFixture[str]):
    before, after = runpy.run_path(str(EXAMPLE))["main"](24_576)
    assert capsys.readouterr().out.startswith("mean reward of a slot: untrained ")
    assert after > before + 0.05


def test_ends_are_told_as_stable_baselines3_expects():
    world = random_world(np.random.default_rng(0))
    copies, envs = Sb3Vector(EdgeVector(3, world)), EdgeVector(3, world)
    copies.seed(4)
    np.testing.assert_array_equal(copies.reset()["uplink_bps"], envs.reset(seed=4)[0]["uplink_bps"])
    action = np.zeros(envs.action_space.shape, dtype=np.int64)
    for _ in range(world.edge.slots):
        _, _, over, infos = copies.step(action)
        _, _, _, truncated, info = envs.step(action)
        assert (over == truncated).all()
    for i in range(3):
        assert infos[i]["TimeLimit.truncated"]
        for name, value in info["final_obs"][i].items():
            np.testing.assert_array_equal(infos[i]["terminal_observation"][name], value)
    assert np.stack(copies.env_method("action_masks")).shape == copies.envs.action_masks().shape

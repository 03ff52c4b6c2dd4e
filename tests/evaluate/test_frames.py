"""DROO's world through `coinfer simulate`."""

from pathlib import Path

import numpy as np
import pytest
import torch

from coinfer.envs import wireless_power
from coinfer.errors import UserError
from coinfer.evaluate import frames
from coinfer.evaluate.compare import Settings, compare
from coinfer.evaluate.simulate import episode_seeds
from coinfer.scenario.compile import open_world
from coinfer.scenario.world import WirelessPowerWorld


def small() -> WirelessPowerWorld:
    world = open_world("droo", {"devices": 5, "slots": 7}).world
    assert isinstance(world, WirelessPowerWorld)
    return world


def test_it_is_the_mean_of_the_frames_that_the_environment_steps_through():
    world = small()
    tables, seeds = wireless_power.load(world), episode_seeds(2, 3)
    state, rates = wireless_power.reset(tables, seeds), []
    for _ in range(world.slots):
        stepped = wireless_power.step(tables, state, torch.ones_like(state.gain, dtype=torch.bool))
        rates.append(stepped.allocation.rate_bps)
        state = stepped.state
    found = frames.run(world, "all-send", 2, 3)
    expected = torch.stack(rates, 1).reshape(2, -1).mean(-1).numpy()
    np.testing.assert_allclose(found.measures["rate_bps"], expected, rtol=1e-12)
    assert (found.measures["sends"] == 1).all()
    assert found.tasks == 42


def test_a_comparison_of_its_own(tmp_path: Path):
    settings = Settings("droo", (*frames.DEFAULT_POLICIES, "optimum"), 2, 1, changes=("slots=20", "devices=6"))
    found = compare(settings, results=tmp_path)
    assert found.title == "droo: 2 seeds of 1 episode of 20 slots, 40 frames"
    rate = {run.policy: run.measures["rate_bps"].mean() for run in found.runs}
    assert max(rate.values()) == rate["optimum"]
    assert rate["coordinate-descent"] / rate["optimum"] > 0.999
    assert (tmp_path / "simulate-droo" / "plot.png").exists()
    with pytest.raises(UserError, match="there are all-local, all-send"):
        compare(Settings("droo", ("greedy",)))

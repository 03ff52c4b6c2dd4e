"""DROO learns its problem, decides alike in torch and ONNX, and resumes exactly."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from coinfer.checkpoint import digest
from coinfer.envs import wireless_power
from coinfer.errors import UserError
from coinfer.evaluate import frames
from coinfer.evaluate.policy_files import open_frame_policy
from coinfer.physics import random
from coinfer.policies.frame_onnx import load_frame_policy
from coinfer.policies.learned.imitation.frame_policy import gain_inputs
from coinfer.policies.onnx import PolicyError, load_policy
from coinfer.rl import frame_export
from coinfer.rl.algorithms.droo import PRESETS, DrooSettings, make_learner, train, with_rounds
from coinfer.rl.core.envs.frames import FrameEnv
from coinfer.rl.core.loop import Loop, run
from coinfer.rl.core.records import label
from coinfer.rl.core.training import TrainSettings
from coinfer.scenario.compile import open_world

SMALL = ("devices=5", "slots=1000")


def small(preset: str = "quick", frames: int = 10, rounds: int = 60) -> DrooSettings:
    chosen = replace(PRESETS[preset], frames=frames, hidden=(32, 16))
    return with_rounds(replace(chosen, loop=replace(chosen.loop, capacity=256, batch=32, assess_rounds=10)), rounds)


def loop_of(settings: DrooSettings, changes: dict[str, object] | None = None) -> Loop:
    world = open_world("droo", {"devices": 5, **(changes or {})}).world
    seeds = random.key(torch.zeros(2, dtype=torch.int64), torch.arange(2))
    return Loop(settings.loop, FrameEnv(world, settings.frames), make_learner(settings, world, seeds), share=label)


@pytest.fixture(scope="module")
def trained():
    settings = TrainSettings("droo", SMALL, seeds=2, steps=1500)
    return train(settings, droo_settings=replace(PRESETS["quick"], hidden=(32, 16)))


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("policy") / "policy.onnx"
    frame_export.export_best(trained, path)
    return path


def test_training_brings_the_networks_own_decision_near_the_optimum(trained):
    """With one candidate nothing but the network decides; untrained it is as good as chance."""
    world = open_world("droo", {"devices": 5, "slots": 300}).world
    best = frames.run(world, "optimum", 2, 1).measures["rate_bps"]
    policy = trained.modules[trained.best]
    untrained = make_learner(PRESETS["quick"], world, torch.arange(1)).flat[0]
    reached = []
    for flat, net in (
        (policy.flat[0], policy.net),
        (untrained, make_learner(PRESETS["quick"], world, torch.arange(1)).net),
    ):
        alone = type(policy)(net, flat, world, policy.power, 1)
        found = frames.run(world, "alone", 2, 1, policy=lambda gain, weight, _, alone=alone: alone(gain, weight))
        reached.append((found.measures["rate_bps"] / best).min())
    assert reached[0] > 0.97 > 0.93 > reached[1]


def test_onnx_decides_as_torch_does_for_any_weights_and_devices_that_are_off(trained, exported):
    world = open_world("droo", {"devices": 5}).world
    state = wireless_power.reset(wireless_power.load(world), torch.arange(400))
    gain, weight = state.gain.clone(), state.weight.clone()
    gain[100:200, 2] = 0.0
    weight[200:300] = weight[200:300].flip(-1)
    weight[300:] = torch.tensor([0.3, 1.0, 2.0, 1.1, 0.7], dtype=weight.dtype)
    policy = load_frame_policy(exported)
    expected = trained.modules[trained.best](gain, weight).numpy()
    np.testing.assert_array_equal(policy(gain.numpy(), weight.numpy()), expected)
    np.testing.assert_array_equal(policy(gain[7].numpy(), weight[7].numpy()), expected[7])
    assert 0.05 < expected.mean() < 0.95


def test_the_exported_policy_beats_every_rule_that_does_not_search(exported):
    world = open_world("droo", {"devices": 5, "slots": 200}).world
    runs = {
        run.policy: run.measures["rate_bps"] for run in frame_export.compare_with_baselines(exported, "droo", world)
    }
    for name in ("all-local", "all-send", "random"):
        assert (runs["droo"] > runs[name]).all(), name
    assert (runs["droo"] > 0.995 * runs["optimum"]).all()
    assert (runs["droo"] <= runs["optimum"] * (1 + 1e-9)).all()


def test_a_policy_for_others_is_one_line(exported):
    with pytest.raises(PolicyError, match="made for 5 devices, 10 at hand"):
        open_frame_policy(exported, open_world("droo").world)
    with pytest.raises(
        PolicyError, match="expected format 1 and kind 'offload', got format 1 and kind 'wireless-power'"
    ):
        load_policy(exported)
    with pytest.raises(UserError, match="learns in environment wireless-power only"):
        train(TrainSettings("mtl-a3c"))


def test_frames_decided_together_are_decided_as_one_by_one():
    """Ten frames in one round of ten worlds, or ten rounds of one frame, with an update after both."""
    constant = replace(small("paper"), learner=replace(PRESETS["paper"].learner, adapt_every=0))
    together, one_by_one = loop_of(constant), loop_of(replace(constant, frames=1))
    for number in range(1, 5):
        steps = [one_by_one.step() for _ in range(10)]
        step = together.step()
        assert step.action.equal(torch.cat([single.action for single in steps], 1))
        for loop, played in ((one_by_one, steps), (together, [step])):
            for one in played:
                loop.remember(one)
            loop.learn(loop.sample(number))
        torch.testing.assert_close(together.learner.flat, one_by_one.learner.flat)
    assert not together.learner.flat.equal(loop_of(constant).learner.flat)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_restored_training_ends_as_one_that_was_not_stopped(preset):
    whole, begun, resumed = (loop_of(small(preset)) for _ in range(3))
    run(whole)
    for _ in range(25):
        begun.play()
    resumed.restore({name: part.clone() for name, part in begun.tensors().items()})
    run(resumed)
    assert digest(resumed.tensors()) == digest(whole.tensors())


def test_inputs_are_standardised_for_exponential_gains():
    gain = torch.tensor(np.random.default_rng(0).exponential([2e-6, 1e-6], (200_000, 2)))
    for power in (0.5, 1.0):
        inputs = gain_inputs(gain, torch.tensor([2e-6, 1e-6], dtype=torch.float64), power)
        assert inputs.mean().item() == pytest.approx(0.0, abs=0.01)
        assert inputs.std().item() == pytest.approx(1.0, abs=0.01)

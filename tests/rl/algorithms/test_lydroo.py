"""LyDROO keeps queues shorter than who does not mind them, decides alike in torch and ONNX, and resumes exactly."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from coinfer.checkpoint import digest
from coinfer.envs import data_queues
from coinfer.errors import UserError
from coinfer.evaluate import queues
from coinfer.evaluate.policy_files import open_frame_policy
from coinfer.policies.frame_onnx import load_frame_policy
from coinfer.rl import frame_export
from coinfer.rl.algorithms import droo, lydroo
from coinfer.rl.core.envs.queues import QueueEnv
from coinfer.rl.core.loop import Loop, run
from coinfer.rl.core.records import label
from coinfer.rl.core.training import TrainSettings
from coinfer.scenario.compile import open_world

SMALL = {"devices": 4, "slots": 80, "queues.arrival_bits": 300e3}
SETTINGS = replace(lydroo.PRESETS["quick"], hidden=(32, 16), frames=5)


@pytest.fixture(scope="module")
def trained():
    changes = tuple(f"{key}={value}" for key, value in SMALL.items())
    short = replace(SETTINGS, loop=replace(SETTINGS.loop, assess_rounds=20))
    return lydroo.train(TrainSettings("droo-queues", changes, seeds=2, steps=1000), lydroo_settings=short)


def test_the_exported_policy_decides_as_torch_does_and_keeps_queues_shorter(trained, tmp_path):
    world = open_world("droo-queues", SMALL).world
    path = tmp_path / "policy.onnx"
    frame_export.export_best(trained, path)
    tables = data_queues.load(world)
    state = data_queues.reset(tables, torch.arange(100))
    state = state._replace(queue_bits=state.queue_bits * 10 ** torch.linspace(-1, 1, 100, dtype=torch.float64)[:, None])
    gain, weight = state.frame.gain, data_queues.weights(tables, state)
    expected = trained.modules[trained.best](gain, weight).numpy()
    np.testing.assert_array_equal(load_frame_policy(path)(gain.numpy(), weight.numpy()), expected)
    policy, _ = open_frame_policy(path, world)
    longest = {
        name: queues.run(world, name, 3, 1, policy=own).measures["longest_bits"].mean()
        for name, own in (("lydroo", policy), ("coordinate-descent", None), ("myopic", None))
    }
    assert longest["lydroo"] < 0.85 * longest["myopic"]
    assert longest["lydroo"] < 1.1 * longest["coordinate-descent"]


def test_the_networks_own_decision_heeds_the_queues_after_the_training(trained):
    """With one candidate nothing but the network decides: if its queue is longest, a device's mode is chosen for it."""
    world = open_world("droo-queues", SMALL).world
    policy = trained.modules[trained.best]
    alone = type(policy)(policy.net, policy.flat[0], world.frames, policy.power, 1, reads_weights=True)
    untrained = lydroo.make_learner(SETTINGS, world, torch.arange(1))
    begun = type(policy)(untrained.net, untrained.flat[0], world.frames, policy.power, 1, reads_weights=True)
    growth = {}
    for name, own in (("trained", alone), ("untrained", begun)):
        found = queues.run(world, name, 3, 1, policy=lambda gain, weight, _, own=own: own(gain, weight))
        growth[name] = found.measures["queue_growth"].mean()
    assert growth["trained"] < growth["untrained"]


def test_a_restored_training_ends_as_one_that_was_not_stopped():
    """Episodes of 7 frames, so that it is stopped after new ones have begun."""
    world = open_world("droo-queues", {**SMALL, "slots": 7}).world
    settings = droo.with_rounds(replace(SETTINGS, loop=replace(SETTINGS.loop, batch=16, assess_rounds=3)), 20)

    def made() -> Loop:
        learner = lydroo.make_learner(settings, world, torch.arange(2))
        return Loop(settings.loop, QueueEnv(world, settings.frames), learner, share=label)

    whole, begun, resumed = made(), made(), made()
    run(whole)
    for _ in range(9):
        begun.play()
    resumed.restore({name: part.clone() for name, part in begun.tensors().items()})
    run(resumed)
    assert digest(resumed.tensors()) == digest(whole.tensors())


def test_frames_without_queues_are_one_line():
    with pytest.raises(UserError, match="scenario droo: this scheme learns in environment wireless-power with queues"):
        lydroo.train(TrainSettings("droo"))

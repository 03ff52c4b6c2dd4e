"""`coinfer train`'s schemes for many tasks at once: trained, exported, and alike on either side."""

import pytest
import torch

from coinfer.envs import offload
from coinfer.errors import TrainingError
from coinfer.policies.onnx import load_policy
from coinfer.rl import export, registry
from coinfer.rl.core.training import TrainSettings
from coinfer.scenario.compile import open_world
from coinfer.scenario.load import parse_changes

CHANGES = ("tasks_per_slot=8", "slots=8", "arrivals.mean=0.3", "arrivals.variance=0.016", "links.placements=4")
NAMES = (pytest.param("cdo-dsac", marks=pytest.mark.slow), pytest.param("online-rl", marks=pytest.mark.slow))
"""An export takes some seconds; DDPG's and the joint variant's go the same way as the first."""


def settings(**changes) -> TrainSettings:
    return TrainSettings("cdo-dsac", CHANGES, **{"seeds": 1, "steps": 120, **changes})


@pytest.mark.parametrize("name", NAMES)
def test_the_exported_file_decides_as_the_trained_policy(name, tmp_path):
    trained = registry.trainer(name)(settings())
    compiled = open_world("cdo-dsac", parse_changes(CHANGES))
    export.export_best(trained, compiled, tmp_path / "policy.onnx")
    exported = load_policy(tmp_path / "policy.onnx")
    tables = offload.load(compiled.world)
    observation = offload.observe(tables, offload.reset(tables, torch.arange(40)))
    mine = trained.policies[0](observation)
    theirs = exported(type(observation)(*(part.numpy() for part in observation)))
    task_mask = observation.task_mask.numpy()
    assert (mine.option.numpy() == theirs.option)[task_mask].all()
    assert (mine.server.numpy() == theirs.server)[task_mask].all()


def test_a_seed_ships_one_policy_of_its_five_agents():
    trained = registry.trainer("cias-pno")(settings(seeds=2))
    assert len(trained.policies) == 2
    assert len(trained.assessed[-1].figures["reward"]) == 2
    assert len(trained.points[-1].figures["reward"]) == 10


@pytest.mark.parametrize("name", ["cias-pno-joint", "ddpg"])
def test_the_others_train_and_decide_too(name):
    trained = registry.trainer(name)(settings(steps=60))
    world = open_world("cdo-dsac", parse_changes(CHANGES)).world
    tables = offload.load(world)
    observation = offload.observe(tables, offload.reset(tables, torch.arange(4)))
    decision = trained.policies[0](observation)
    assert bool(observation.option_mask.gather(-1, decision.option[..., None])[..., 0][observation.task_mask].all())


def test_one_line_tells_what_is_wrong():
    with pytest.raises(TrainingError, match="no preset 'slow'; there are quick, paper"):
        registry.trainer("ddpg")(settings(preset="slow"))
    with pytest.raises(TrainingError, match="environment offload only"):
        registry.trainer("cdo-dsac")(TrainSettings("mtl-a3c"))

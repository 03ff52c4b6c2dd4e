"""The annotations of the contract hold for what environments, policies and the runtime really make."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import jaxtyped
from tests.envs.worlds import random_blocks, random_world
from tests.runtime.device.planning.test_observation import NOW_S, random_options, up

from coinfer.envs import rewards
from coinfer.envs.batched_env import environment_of
from coinfer.evaluate.simulate import known_policies
from coinfer.runtime.device.planning.observation import least_latency, observe
from coinfer.types import (
    BlocksDecision,
    BlocksObservation,
    OffloadDecision,
    OffloadObservation,
    Outcome,
    fields_of,
)

KINDS = (OffloadObservation, OffloadDecision, BlocksObservation, BlocksDecision, Outcome)


def wrong(*values: Any) -> list[str]:
    """Fields that are not as they are annotated; axes of one letter must have one length in all values together."""
    with jaxtyped("context"):
        return [
            name
            for value in values
            for (name, annotation), field in zip(type(value).__annotations__.items(), value, strict=True)
            if not isinstance(field, annotation)
        ]


@pytest.mark.parametrize("make", [random_world, random_blocks])
@pytest.mark.parametrize("seed", range(5))
def test_environments_and_policies_keep_the_contract(make, seed: int):
    world = make(np.random.default_rng(seed))
    env = environment_of(world)
    tables = env.load(world)
    for name, maker in known_policies(world).items():
        state = env.reset(tables, torch.arange(3))
        seen = env.observe(tables, state)
        decision = maker(0)(seen)
        outcome = env.step(tables, state, decision, rewards.latency).outcome
        assert wrong(seen, decision, outcome) == [], name


@pytest.mark.parametrize("servers", [0, 1, 3])
def test_the_runtime_keeps_the_contract(servers: int):
    options = random_options(np.random.default_rng(servers), 4)
    seen = observe(options, [up(1e7, 0.5)] * servers, 1.0, NOW_S)
    assert wrong(seen, least_latency(seen)) == []


def test_other_axes_and_kinds_are_found():
    options = random_options(np.random.default_rng(0), 4)
    seen = observe(options, [up(1e7, 0.5)] * 3, 1.0, NOW_S)
    assert wrong(seen._replace(uplink_bps=seen.uplink_bps[:, :2])) == ["uplink_bps"]
    assert wrong(seen._replace(task_mask=np.ones(1))) == ["task_mask"]
    assert wrong(seen._replace(uplink_backlog_s=np.zeros(1))) == ["uplink_backlog_s"]


def test_axes_are_read_from_the_annotations():
    fields = fields_of(OffloadObservation)
    assert list(fields) == list(OffloadObservation._fields)
    assert fields["option_server_s"] == (("B", "K", "O", "N"), False)
    assert fields["task_mask"] == (("B", "K"), True)
    letters = set("BKONM1")
    assert all(set(field.axes) <= letters for kind in KINDS for field in fields_of(kind).values())


def test_the_contract_knows_no_framework():
    code = "import sys, coinfer.types, coinfer.units; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "grpc", "onnxruntime"} & set(loaded)

"""The exported scorer decides as the one in PyTorch, for any number of worlds, tasks, options and servers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.policies.observations import random_observation

from coinfer.policies.learned.scorer import export as scorer_export
from coinfer.policies.learned.scorer import policy as scorer
from coinfer.policies.learned.scorer import weights as scorer_weights
from coinfer.policies.onnx import load_policy
from coinfer.types import DEVICE, OffloadObservation

SHAPES = [(1, 2, 1), (3, 2, 5), (7, 4, 3), (9, 3, 6), (16, 2, 10)]
"""Tasks, options, servers."""


@pytest.fixture(scope="module")
def weights() -> torch.Tensor:
    """Far from the first ones, so that every price counts."""
    generator = torch.Generator().manual_seed(1)
    return scorer_weights.initial_weights() + 0.3 * torch.randn(scorer_weights.SIZE, generator=generator)


@pytest.fixture(scope="module")
def path(weights: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("policy") / "own.onnx"
    scorer_export.export(found, weights, scenario="some", fingerprint="abc", training={"generations": 3})
    return found


def single(seed: int, tasks: int, options: int, servers: int, worlds: int = 60) -> OffloadObservation:
    seen = random_observation(seed, worlds, tasks, options, servers)
    return OffloadObservation(*(field if field.dtype == torch.bool else field.float() for field in seen))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_it_decides_as_pytorch_does(weights: torch.Tensor, path: Path, shape: tuple[int, int, int]):
    policy = load_policy(path)
    seen = single(sum(shape), *shape, worlds=1000)
    own = scorer.decide(scorer_weights.unpack(weights[None]), seen)
    other = policy(OffloadObservation(*(field.numpy() for field in seen)))
    task_mask = seen.task_mask.numpy()
    np.testing.assert_array_equal(own.option.numpy()[task_mask], other.option[task_mask])
    np.testing.assert_array_equal(own.server.numpy()[task_mask], other.server[task_mask])
    assert (own.server.numpy()[task_mask] == DEVICE).any() or shape[0] > 1


@pytest.mark.slow
def test_a_world_decides_the_same_alone(path: Path):
    policy = load_policy(path)
    seen = OffloadObservation(*(field.numpy() for field in single(3, 6, 3, 4)))
    together = policy(seen)
    for world in range(5):
        alone = policy(OffloadObservation(*(field[world] for field in seen)))
        task_mask = seen.task_mask[world]
        np.testing.assert_array_equal(alone.option[task_mask], together.option[world][task_mask])
        np.testing.assert_array_equal(alone.server[task_mask], together.server[world][task_mask])


def test_a_slot_without_tasks_is_no_mistake(path: Path):
    seen = single(3, 4, 3, 2)
    nobody = OffloadObservation(*(field.numpy() for field in seen))._replace(task_mask=np.zeros((60, 4), dtype=bool))
    assert load_policy(path)(nobody).option.shape == (60, 4)


def test_the_sidecar_says_what_it_takes(path: Path):
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert sidecar["sizes"] == {"K": None, "O": None, "N": None}
    assert sidecar["options"] is None
    assert sidecar["training"] == {"generations": 3}
    assert set(sidecar["fields"]) <= set(OffloadObservation._fields)
    assert path.stat().st_size < 200_000

"""The policy that comes with the package: found by its name everywhere, the same in every form, and worth having."""

import numpy as np
import pytest
import torch
from tests.policies.observations import random_observation

from coinfer.evaluate.simulate import known_policies, run_policy
from coinfer.policies import shipped
from coinfer.policies.learned.scorer import weights as scorer_weights
from coinfer.policies.onnx import PolicyError, load_policy, shipped_path
from coinfer.runtime.device.planning.policy_loader import load_policy_for
from coinfer.scenario.compile import open_world
from coinfer.types import OffloadObservation


def test_it_is_known_by_its_name():
    world = open_world("campus", {}).world
    assert {"learned", "learned-forgetful", "insertion"} <= set(known_policies(world))
    assert shipped_path("learned") == shipped.LEARNED
    assert load_policy("learned").sidecar["scheme"] == "scorer"
    assert shipped_path("folder/learned").name == "learned"
    with pytest.raises(PolicyError):
        load_policy("unlearned")


def test_the_file_and_the_weights_beside_it_decide_alike():
    policy = load_policy("learned")
    assert scorer_weights.unpack(shipped.learned_weights()[None]).key.shape[-1] <= scorer_weights.ORDERS
    for seed, shape in enumerate([(1, 3, 2), (6, 2, 5), (12, 4, 3)]):
        seen = random_observation(seed, 100, *shape)
        seen = OffloadObservation(*(field if field.dtype == torch.bool else field.float() for field in seen))
        own, other = shipped.learned_policy()(seen), policy(OffloadObservation(*(field.numpy() for field in seen)))
        there = seen.task_mask.numpy()
        for mine, theirs in zip(own, other, strict=True):
            np.testing.assert_array_equal(mine.numpy()[there], theirs[there])


@pytest.mark.parametrize("age", [0, 3])
def test_it_is_better_than_sequential_greedy(age):
    world = open_world("cdo-dsac", {"staleness_slots": age, "slots": 20}).world
    ours, greedy = (run_policy(world, name, 10, 1).measures for name in ("learned", "sequential-greedy"))
    difference_s = ours["mean_s"] - greedy["mean_s"]
    assert difference_s.mean() + 2.3 * difference_s.std(ddof=1) / 10**0.5 < 0
    assert ours["in_time"].mean() >= greedy["in_time"].mean()


def test_real_nodes_take_it_for_their_own_options():
    class Planned:
        triples = ((0, ("input",), 32), (0, (), 32))

    options, policy = load_policy_for("learned", 3, Planned(), lambda bits: pytest.fail("it has no options of its own"))  # type: ignore[arg-type]
    assert isinstance(options, Planned)
    seen = random_observation(1, 1, 1, 2, 3)
    alone = OffloadObservation(
        *(np.asarray(field[0] if field.dtype == torch.bool else field[0].float()) for field in seen)
    )
    decision = policy(alone)
    assert decision.option.shape == (1,)
    assert -1 <= decision.server[0] < 3

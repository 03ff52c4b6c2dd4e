"""The pointer policy: untrained it is the rule, in ONNX it decides as in torch, for any number of choices."""

import numpy as np
import pytest
import torch

from coinfer.envs import offload
from coinfer.evaluate.policy_files import is_serving_policy, open_serving_policy
from coinfer.evaluate.serving_slots import Slots, demand_greedy, pointer, rule_weights
from coinfer.evaluate.serving_worlds import PlainWorlds
from coinfer.evaluate.simulate import run_policy
from coinfer.policies.learned.pointer.export import export_pointer
from coinfer.policies.learned.pointer.features import BATCHES, COLUMNS, NAMES, WARM, WORLD, decide_slot
from coinfer.policies.learned.pointer.net import PointerNet, PointerPolicy
from coinfer.policies.onnx import PolicyError
from coinfer.policies.serving_onnx import load_serving_policy
from coinfer.scenario.compile import open_world

SCALE_S = 0.03
NET = PointerNet(5, (16, 8), without=("copies",))


@pytest.fixture(scope="module")
def world():
    return open_world("many-models", {"slots": 8, "arrivals.rates_per_s": [60, 20, 60, 20]}).world


def policy(world, trained: bool) -> PointerPolicy:
    row = NET.initial(torch.tensor([1]))[0]
    if trained:
        row = row + 0.3 * torch.randn(row.shape, generator=torch.Generator().manual_seed(0))
    return PointerPolicy(NET, row, rule_weights(world), SCALE_S)


def oracle(one: PointerPolicy):
    return pointer(lambda rows: one(torch.from_numpy(rows)).numpy(), one.weights, SCALE_S)


def latencies(world, decider) -> list[float]:
    return run_policy(world, "policy", 3, 1, oracle=decider).measures["mean_s"].tolist()


def test_untrained_it_is_the_rule_and_other_weights_decide_otherwise(world):
    rule = latencies(world, demand_greedy(rule_weights(world)))
    assert latencies(world, oracle(policy(world, trained=False))) == rule
    assert latencies(world, oracle(policy(world, trained=True))) != rule


def test_one_slot_alone_is_decided_as_among_many_worlds(world):
    one = policy(world, trained=True)

    def scores(rows: np.ndarray) -> np.ndarray:
        return one(torch.from_numpy(rows)).numpy()

    tables = offload.load(world)
    state = offload.reset(tables, torch.arange(4))
    seen = offload.observe(tables, state)
    together = pointer(scores, one.weights, SCALE_S)(tables)(state, seen)
    known = PlainWorlds(tables)
    slots = Slots(known, state, seen, [known.no_memory() for _ in range(4)], (one.weights,))
    tasks = 0
    for b, (numbered, slot) in enumerate(zip(slots.numbered, slots.slots, strict=True)):
        for (k, _), found in zip(numbered, decide_slot(slot, scores, SCALE_S), strict=True):
            assert (found.choice.option, found.choice.server) == (together.option[b, k], together.server[b, k])
            tasks += 1
    assert tasks > 8


def test_the_file_decides_as_the_module(world, tmp_path):
    one = policy(world, trained=True)
    about = {"scheme": "pointer", "scenario": "many-models", "scenario_fingerprint": "other"}
    export_pointer(tmp_path / "policy.onnx", one, **about)
    loaded = load_serving_policy(tmp_path / "policy.onnx")
    for tasks, choices in ((1, 2), (3, 7)):
        rows = np.random.default_rng(tasks).normal(size=(tasks, choices, COLUMNS)).astype(np.float32)
        assert loaded(rows) == pytest.approx(one(torch.from_numpy(rows)).numpy(), abs=1e-5)
    assert is_serving_policy(tmp_path / "policy.onnx")
    opened, notes = open_serving_policy(tmp_path / "policy.onnx", world)
    assert "other figures" in notes[0]
    assert latencies(world, opened) == latencies(world, oracle(one))
    plain = open_world("campus", {}).world
    with pytest.raises(PolicyError, match="do neither"):
        open_serving_policy(tmp_path / "policy.onnx", plain)
    side = tmp_path / "policy.json"
    side.write_text(side.read_text().replace('"share"', '"portion"'))
    with pytest.raises(PolicyError, match="train it anew"):
        load_serving_policy(tmp_path / "policy.onnx")


def test_scores_follow_their_choices_and_hidden_features_do_not_matter():
    rows = torch.randn((2, 3, 5, COLUMNS), generator=torch.Generator().manual_seed(1))
    flat = NET.initial(torch.arange(2)) + 0.1
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.allclose(NET.scores(flat, rows)[..., order], NET.scores(flat, rows[..., order, :]))
    blind = PointerNet(5, (16, 8), without=(*BATCHES, *WARM))
    changed = rows.clone()
    for name in blind.without:
        changed[..., 1 + NAMES.index(name)] += 1.0
    assert torch.equal(blind.scores(flat, rows), blind.scores(flat, changed))
    assert not torch.allclose(NET.scores(flat, rows), NET.scores(flat, changed))


def test_values_read_the_world_only():
    flat = NET.initial(torch.arange(2))
    features = torch.randn((2, 4, 3 * 5 * COLUMNS + WORLD), generator=torch.Generator().manual_seed(2))
    changed = torch.cat((features[..., :-WORLD] + 1, features[..., -WORLD:]), -1)
    assert torch.equal(NET(flat, features).value, NET(flat, changed).value)
    assert not torch.equal(NET(flat, features).value, NET(flat, features + 1).value)

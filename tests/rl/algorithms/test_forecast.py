"""The forecast of demand: it learns what comes, and its file decides as the trained network does."""

import numpy as np
import pytest
import torch

from coinfer.envs import offload
from coinfer.errors import UserError
from coinfer.evaluate.policy_files import is_serving_policy, open_serving_policy
from coinfer.evaluate.serving_slots import demand_greedy, forecast
from coinfer.evaluate.serving_worlds import PlainWorlds
from coinfer.evaluate.simulate import run_policy
from coinfer.policies.forecast_onnx import load_forecast
from coinfer.policies.heuristics.demand import FADING_S, DemandWeights, Slot
from coinfer.policies.learned.forecast.export import export_forecast
from coinfer.policies.onnx import PolicyError
from coinfer.rl.algorithms.forecast import ForecastSettings, examples_of, train
from coinfer.rl.core.training import TrainSettings
from coinfer.scenario.compile import open_world

CHANGES = {"slots": 60}
SETTINGS = TrainSettings("tight-memory", ("slots=60",))
SHORT = ForecastSettings(updates=150, episodes=40, batch=256, hidden=(32,))


@pytest.fixture(scope="module")
def trained():
    return train(SETTINGS, forecast_settings=SHORT)


def test_it_is_nearer_to_what_comes_than_what_was_is(trained):
    net, world = trained.modules[0], open_world("tight-memory", CHANGES).world
    faded, coming = examples_of(offload.load(world), torch.arange(7000, 7020), SHORT)
    with torch.no_grad():
        error = (net.demand(faded) - coming).square().mean()
    for number in range(len(FADING_S)):
        assert error < 0.9 * (faded[:, number] - coming).square().mean()
    assert error < 0.9 * (coming.mean(0) - coming).square().mean()


def test_examples_are_what_deciders_remember():
    """But for the times of devices and servers that are busy."""
    world = open_world("tight-memory", {"slots": 12}).world
    tables = offload.load(world)
    known, seeds = PlainWorlds(tables), torch.arange(2)
    state, memories = offload.reset(tables, seeds), [known.no_memory(forecasts=True) for _ in seeds]
    for _ in range(6):
        observation = offload.observe(tables, state)
        servers = known.servers(state.queues)
        for b, numbered in enumerate(known.tasks(state, observation, own=True)):
            Slot(servers[b], [task for _, task in numbered], memories[b], DemandWeights(4.0), world.edge.slot_s)
        decision = demand_greedy(DemandWeights(1.0, 0.0, 0.0))(tables)(state, observation)
        state = offload.step(tables, state, decision._replace(server=decision.server * 0 - 1), _no_reward).state
    short = ForecastSettings(weights=DemandWeights(memory_s=0.1))  # so that few slots at the end are left out
    faded = examples_of(tables, seeds, short).faded.reshape(-1, 2, len(FADING_S), world.edge.models)[0]
    assert np.allclose(np.array([memory.faded for memory in memories]), faded, rtol=0.1, atol=0.02)


def test_the_file_decides_as_the_trained_network(trained, tmp_path):
    net, world = trained.modules[0], open_world("tight-memory", CHANGES).world
    path = tmp_path / "policy.onnx"
    export_forecast(path, net, **trained.origin)
    faded = torch.rand((5, len(FADING_S), world.edge.models))
    with torch.no_grad():
        np.testing.assert_allclose(load_forecast(path)(faded.numpy()), net.demand(faded), rtol=1e-4, atol=1e-5)
    assert is_serving_policy(path)
    opened, notes = open_serving_policy(path, world)
    assert notes == ()

    def ask(faded: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return net.demand(torch.from_numpy(faded)).numpy()

    runs = [run_policy(world, "f", 2, 1, oracle=one) for one in (opened, forecast(ask, net.weights))]
    np.testing.assert_allclose(runs[0].measures["mean_s"], runs[1].measures["mean_s"], rtol=1e-6)


def test_a_seed_gives_the_same_network_again_and_another_one_another(trained):
    assert train(SETTINGS, forecast_settings=SHORT).digest == trained.digest
    assert train(TrainSettings("tight-memory", ("slots=60",), seed=1), forecast_settings=SHORT).digest != trained.digest


def test_what_it_cannot_be_used_for_is_said(trained, tmp_path):
    with pytest.raises(UserError, match="load nothing"):
        train(TrainSettings("gpu-edge"))
    with pytest.raises(UserError, match="20 slots, expected 46 or more"):
        train(TrainSettings("tight-memory", ("slots=20",)))
    path = tmp_path / "policy.onnx"
    export_forecast(path, trained.modules[0], **trained.origin)
    with pytest.raises(PolicyError, match="forecasts 24 networks, gpu-edge has 16"):
        open_serving_policy(path, open_world("gpu-edge").world)


def _no_reward(outcome, draws):
    return torch.zeros(len(draws.task_mask))


def test_a_folder_that_holds_a_training_is_left_alone(tmp_path):
    (tmp_path / "curves.json").write_text("{}")
    with pytest.raises(UserError, match="holds a training already; choose another folder"):
        train(SETTINGS, forecast_settings=SHORT, folder=tmp_path)
    assert (tmp_path / "curves.json").read_text() == "{}"

"""GRLE and what it is compared with: they learn, differ in exits and network only, resume and refuse."""

from dataclasses import replace

import pytest
import torch
from tests.policies.learned.imitation.slots import compiled, observed, world

from coinfer.errors import TrainingError
from coinfer.physics import random
from coinfer.rl import registry
from coinfer.rl.algorithms import grle
from coinfer.rl.core.loop import run
from coinfer.rl.core.training import TrainSettings

SEEDS = random.key(torch.zeros(2, dtype=torch.int64), torch.arange(2))
SHORT = replace(grle.PRESETS["quick"], hidden=8, layers=(16,), worlds=2)
CHANGES = ("devices.0.count=5", "tasks_per_slot=5", "arrivals.tasks=5", "slots=8")
SCHEMES = {"grle": (True, True), "grl": (True, False), "drooe": (False, True), "droo": (False, False)}


def short(rounds: int, **changes) -> grle.GrleSettings:
    settings = grle.with_rounds(replace(SHORT, **changes), rounds)
    return replace(settings, loop=replace(settings.loop, assess_every=0, assess_rounds=8, log_every=5))


def test_the_network_alone_learns_what_candidates_and_critic_find():
    scenario = compiled("grle-s2")
    loop = grle.make_loop(short(90), scenario, SEEDS)
    untrained = loop.learner.flat.detach().clone()
    run(loop)
    seen = observed(scenario, 40)
    twice = type(seen)(*(torch.cat((part, part)) for part in seen))
    scores = []
    for flat in (untrained, loop.learner.flat):
        decided = grle.make_policy(short(1), scenario, flat, count=1)(twice)
        choice = (decided.option * 2 + decided.server.clamp(min=0))[:, None]
        scores.append(grle.critic_of(scenario)(twice, choice).mean().item())
    assert scores[1] > scores[0] + 0.5


def test_the_last_exit_is_all_that_schemes_without_early_exits_take():
    scenario, seen = compiled(), observed(compiled())
    edge = world(scenario)
    every = edge.option_accuracy[0, 0].tolist()
    for early_exits, exits in ((False, {max(every)}), (True, set(every))):
        options = grle.useful_options(edge, early_exits=early_exits)
        assert set(edge.option_accuracy[0, 0, options.numpy()].tolist()) == exits
        assert (edge.option_upload_bits[0, 0, options.numpy()] > 0).all(), "devices are too slow to be in time"
        net = short(1).net(edge, len(options))
        policy = grle.make_policy(short(1, early_exits=early_exits), scenario, net.initial(SEEDS[:1]))
        assert set(policy(seen).option.unique().tolist()) <= set(options.tolist())


@pytest.mark.parametrize("name", SCHEMES)
def test_schemes_train_by_their_names(name: str):
    trained = registry.trainer(name)(TrainSettings("grle-s2", CHANGES, 2, 0, 40))
    graph, early_exits = SCHEMES[name]
    preset = trained.record["preset"]
    assert isinstance(preset, dict)
    assert (preset["graph"], preset["early_exits"], preset["loop"]["rounds"]) == (graph, early_exits, 10)
    assert trained.dynamic_axes == ("BKN" if graph else "B")
    decided = trained.policies[1](observed(compiled("grle-s2")))
    assert decided.option.shape == (6, 5)
    assert {"reward", "in_time", "timely_accuracy"} <= trained.assessed[-1].figures.keys()
    assert all(0 < share <= 1 for share in trained.assessed[-1].figures["timely_accuracy"])


@pytest.mark.parametrize("graph", [True, False])
def test_a_resumed_training_ends_as_one_that_was_not_stopped(graph: bool):
    settings, scenario = short(12, graph=graph, noisy=8 if graph else 0), compiled("grle-s2")
    whole, begun, resumed = (grle.make_loop(settings, scenario, SEEDS) for _ in range(3))
    run(whole)
    for _ in range(5):
        begun.play()
    resumed.restore({name: part.clone() for name, part in begun.tensors().items()})
    run(resumed)
    expected = whole.tensors()
    for name, part in resumed.tensors().items():
        assert part.equal(expected[name]), name


def test_a_scenario_without_its_reward_is_refused_in_one_line():
    with pytest.raises(TrainingError, match="campus: reward late; this scheme scores by reward early-exit"):
        grle.train(TrainSettings("campus", ("slots=4",), steps=8))
    with pytest.raises(TrainingError, match="no preset 'slow'; there are quick, paper"):
        grle.train(TrainSettings("grle", preset="slow"))

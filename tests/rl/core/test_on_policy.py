"""Rollouts, returns and the actor-critics that learn from them: exact answers, exact resume, learners side by side."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.rl.core.probes import ChoiceReward, ConstantReward, DelayedReward, MatchReward, ObservationReward, Probe
from torch import Tensor

from coinfer.physics import random
from coinfer.policies.learned.actor_critic import ActorCriticNet
from coinfer.rl.algorithms import a3c, ppo
from coinfer.rl.algorithms.a3c import A3cSettings
from coinfer.rl.algorithms.ppo import PpoSettings
from coinfer.rl.core.batched_optim import RmsProp, descend
from coinfer.rl.core.envs.cartpole import CartPole
from coinfer.rl.core.loop import Loop, LoopSettings
from coinfer.rl.core.on_policy import ActorCritic, advantages, judge, play, rollout_of
from coinfer.rl.core.records import Observation, Transition
from coinfer.rl.core.training import run_training

SEEDS = random.key(torch.zeros(2, dtype=torch.int64), torch.arange(2))
GAMMA = 0.9
A3C = A3cSettings(0.005, GAMMA, 4, workers=2, entropy=0.001, normalise=False)
PPO = PpoSettings(5e-3, GAMMA, 8, 0.95, 4, 2, entropy=0.001)


def make_a3c(choices: int, settings: A3cSettings = A3C, seeds: Tensor = SEEDS) -> tuple[ActorCritic, Callable]:
    net = ActorCriticNet(2, 1, choices, trunk=(32,))
    return a3c.make_learner(settings, net, seeds), a3c.player(settings)


def make_ppo(choices: int, settings: PpoSettings = PPO, seeds: Tensor = SEEDS) -> tuple[ActorCritic, Callable]:
    net = ActorCriticNet(2, 1, choices, trunk=(32,), trunks="apart")
    return ppo.make_learner(settings, net, seeds), lambda loop: play(loop, settings.horizon, GAMMA, settings.lam)


LEARNERS = pytest.mark.parametrize("make", [make_a3c, make_ppo])


def train(make: Callable, probe: Probe, rounds: int = 240, **given: object) -> ActorCritic:
    learner, play_one = make(probe.choices, **given)
    loop = Loop(LoopSettings(rounds, 0, log_every=8, assess_rounds=2), probe, learner)
    while loop.round < rounds:
        play_one(loop)
    return learner


def value(learner: ActorCritic, sign: int, step: int) -> Tensor:
    features = torch.tensor([[float(sign), float(step)]]).expand(len(learner.seeds), 1, 2)
    return learner.net(learner.flat, features).value[:, 0, 0].detach()


def choices(learner: ActorCritic, sign: int) -> list[int]:
    count = len(learner.keys)
    shape = (count, 1, 1)
    features = torch.tensor([[float(sign), 0.0]]).expand(count, 1, 2)
    seen = Observation(features, torch.ones(*shape, 2, dtype=torch.bool), torch.ones(shape, dtype=torch.bool))
    return learner.act(seen, 0, explore=False).flatten().tolist()


@pytest.mark.parametrize("coherent", [True, False])
def test_coherent_draws_keep_the_heads_of_a_unit_together(coherent):
    """An untrained network of zeros: every head gives four choices the same probability."""
    heads, units, worlds = 5, 60, 8
    net = ActorCriticNet(2, heads, 4, units, by_unit=True, trunk=(4,))
    learner = a3c.make_learner(A3C, net, SEEDS, coherent=coherent)
    with torch.no_grad():
        learner.flat.zero_()
    shape = (len(learner.keys), worlds, units * heads)
    seen = Observation(
        torch.zeros(*shape[:2], units, 2), torch.ones(*shape, 4, dtype=torch.bool), torch.ones(shape, dtype=torch.bool)
    )
    action = learner.act(seen, 0).unflatten(-1, (units, heads))
    together = (action == action[..., :1]).all(-1).double().mean().item()
    tasks = torch.nn.functional.one_hot(action[..., 0], 4).sum(-2)  # of each choice in each world
    if coherent:
        assert together == 1
        assert (tasks - units / 4).abs().max() <= 2
        assert len(action[:, :, 0, 0].unique()) == 4, "worlds and learners begin anywhere"
    else:
        assert together < 0.1
        assert (tasks - units / 4).abs().max() > 3


def test_k_step_returns_and_generalised_advantages_by_hand():
    """Three steps of one world: rewards 1, 2, 4; values 10, 20, 30, then 40; the second step ends by its time limit,
    and the value after it is 50."""
    reward, value_ = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([10.0, 20.0, 30.0])
    after, continues = torch.tensor([20.0, 50.0, 40.0]), torch.ones(3)
    over = torch.tensor([False, True, False])
    parts = [part.reshape(1, 3, 1, 1) for part in (reward, value_, after)]

    def found(lam: float, continues: Tensor = continues) -> list[float]:
        flags = (continues.reshape(1, 3, 1), over.reshape(1, 3, 1))
        return advantages(parts[0], parts[1], parts[2], *flags, 0.5, lam).flatten().tolist()

    assert found(1.0) == [1 + 0.5 * 2 + 0.25 * 50 - 10, 2 + 25 - 20, 4 + 20 - 30]
    assert found(0.0) == [1 + 10 - 10, 2 + 25 - 20, 4 + 20 - 30]
    ended = torch.tensor([1.0, 0.0, 1.0])
    assert found(1.0, ended) == [1 + 0.5 * 2 - 10, 2 - 20, 4 + 20 - 30]


def test_rmsprop_is_the_papers_with_epsilon_inside_the_root():
    flat = torch.tensor([[1.0, -2.0]], requires_grad=True)
    optimiser = RmsProp(flat, 0.1, momentum=0.9, epsilon=0.01)
    descend(optimiser, flat.square().sum(1))
    mean = 0.1 * torch.tensor([4.0, 16.0])
    expected = torch.tensor([1.0, -2.0]) - 0.1 * torch.tensor([2.0, -4.0]) / (mean + 0.01).sqrt()
    torch.testing.assert_close(flat.detach()[0], expected)
    optimiser.apply(torch.tensor([[1.0, 0.0]]), scale=0.5)
    mean = 0.9 * mean + 0.1 * torch.tensor([1.0, 0.0])
    torch.testing.assert_close(optimiser.mean_square[0], mean)
    torch.testing.assert_close(flat.detach()[0, 0], expected[0] - 0.05 / (mean[0] + 0.01).sqrt())


@LEARNERS
def test_learns_values(make):
    torch.testing.assert_close(value(train(make, ConstantReward(choices=1)), 1, 0), torch.ones(2), atol=0.15, rtol=0)
    reads = train(make, ObservationReward(choices=1))
    for sign in (-1, 1):
        torch.testing.assert_close(value(reads, sign, 0), torch.full((2,), float(sign)), atol=0.15, rtol=0)
    delayed = train(make, DelayedReward(length=2, choices=1))
    torch.testing.assert_close(value(delayed, 1, 1), torch.ones(2), atol=0.15, rtol=0)
    torch.testing.assert_close(value(delayed, 1, 0), torch.full((2,), GAMMA), atol=0.15, rtol=0)


@LEARNERS
def test_a_time_limit_is_not_an_end(make):
    """Reward 1 for ever is worth 1 / (1 - gamma) = 10, however short episodes are cut; as an end it would be 4.1."""
    learner = train(make, ConstantReward(length=5, choices=1, ends=False), rounds=800)
    torch.testing.assert_close(value(learner, 1, 0), torch.full((2,), 10.0), atol=2.0, rtol=0)


@LEARNERS
def test_chooses_by_what_it_sees(make):
    assert set(choices(train(make, ChoiceReward()), 1)) == {1}
    learner = train(make, MatchReward())
    assert (set(choices(learner, 1)), set(choices(learner, -1))) == ({1}, {0})


def test_threads_learn_too():
    learner = train(make_a3c, MatchReward(), 400, settings=replace(A3C, workers=3, threads=5))
    assert (set(choices(learner, 1)), set(choices(learner, -1))) == ({1}, {0})
    assert learner.updates == 3 * 100


@LEARNERS
def test_a_learner_learns_the_same_beside_others(make):
    both = train(make, MatchReward(), 40)
    alone = train(make, MatchReward(), 40, seeds=SEEDS[1:])
    torch.testing.assert_close(both.flat[1:], alone.flat, atol=1e-5, rtol=1e-4)


@LEARNERS
def test_resumed_after_any_rollout_it_ends_as_if_not_stopped(make, tmp_path: Path):
    def loop(rounds: int) -> tuple[Loop, Callable]:
        learner, play_one = make(2)
        return Loop(
            LoopSettings(rounds, 0, log_every=8, assess_every=16, assess_rounds=2), MatchReward(), learner
        ), play_one

    whole, play_one = loop(45)
    digest = run_training(whole, {"scheme": "probe"}, play=play_one)
    part, play_one = loop(16)
    run_training(part, {"scheme": "probe"}, play=play_one, folder=tmp_path)
    rest, play_one = loop(45)
    assert run_training(rest, {"scheme": "probe"}, play=play_one, folder=tmp_path, resume=True) == digest
    assert rest.points == whole.points


def test_a_rollout_holds_what_its_policy_said_then():
    """Two units with two heads each, one head without anything to decide."""
    net = ActorCriticNet(3, 2, 4, units=2, by_unit=True, trunk=(8,), head=(5,))
    flat = net.initial(SEEDS)
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(2, 6, 2, 3, generator=generator)
    mask = torch.rand(2, 6, 4, 4, generator=generator) < 0.7
    mask[..., 1] = True
    task_mask = torch.ones(2, 6, 4, dtype=torch.bool)
    task_mask[..., 3] = False
    action, no = torch.ones(2, 6, 4, dtype=torch.int64), torch.zeros(2, 6, dtype=torch.bool)
    step = Transition(features, mask, task_mask, action, torch.rand(2, 6, 2), (~no).float(), features, mask, task_mask)
    rollout = rollout_of(net, flat, [step, step], [no, no], GAMMA, 1.0)
    judged = judge(net, flat, rollout)
    torch.testing.assert_close(judged.log_prob, rollout.log_prob)
    logits = net(flat, features).logits.masked_fill(~mask, -torch.inf).log_softmax(-1)[..., 1]
    by_hand = torch.stack((logits[..., 0] + logits[..., 1], logits[..., 2]), -1)
    torch.testing.assert_close(rollout.log_prob[:, :6], by_hand, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rollout.target, rollout.advantage + rollout.value)


@pytest.mark.parametrize("trunks", ["shared", "apart", "tied"])
@pytest.mark.parametrize("first", ["plain", "he"])
def test_the_network_computes_what_its_layers_do_one_by_one(trunks, first):
    """Two learners, two units with three heads of one hidden layer; weights cut out of the flat parameters by hand."""
    net = ActorCriticNet(5, 3, 4, units=2, by_unit=True, trunk=(7, 6), head=(3,), trunks=trunks, first=first)
    flat, features = net.initial(SEEDS), torch.rand(2, 8, 2, 5, generator=torch.Generator().manual_seed(1))
    outputs = net(flat, features)
    groups = {"shared": 1, "apart": 2, "tied": 4}[trunks]
    for learner in range(2):
        begin = 0

        def layers(count: int, inputs: int, outputs: int, row=flat[learner]) -> list:
            nonlocal begin
            weights = row[begin : begin + count * inputs * outputs].reshape(count, inputs, outputs)
            begin += weights.numel()
            biases = row[begin : begin + count * outputs].reshape(count, outputs)
            begin += biases.numel()
            assert first == "plain" or not biases.any()
            return [lambda x, w=w, b=b: x @ w + b for w, b in zip(weights, biases, strict=True)]

        one, two = layers(groups, 5, 7), layers(groups, 7, 6)
        parts = layers(3, 6, 3), layers(3, 3, 4), layers(1, 6, 3), layers(1, 3, 1)
        assert begin == net.size
        hidden = [b(a(features[learner]).relu()).relu() for a, b in zip(one, two, strict=True)]
        for head in range(3):
            trunk = hidden[head if trunks == "tied" else 0]
            expected = parts[1][head](parts[0][head](trunk).relu())
            torch.testing.assert_close(outputs.logits[learner].unflatten(1, (2, 3))[:, :, head], expected)
        torch.testing.assert_close(outputs.value[learner], parts[3][0](parts[2][0](hidden[-1]).relu())[..., 0])


def test_tied_trunks_are_as_far_apart_as_their_weights():
    net = ActorCriticNet(2, 3, 2, trunk=(4,), trunks="tied")
    flat = net.initial(SEEDS)
    assert (net.distance(flat) > 0).all()
    weights, biases = 4 * 2 * 4, 4 * 4
    same = flat.clone()
    for begin, size in ((0, weights), (weights, biases)):
        group = same[:, begin : begin + size].unflatten(1, (4, -1))
        group[:, :3] = group[:, :1]
    assert (net.distance(same) < 1e-10).all()
    assert (ActorCriticNet(2, 3, 2, trunk=(4,)).distance(flat) == 0).all()


def test_ppo_learns_to_hold_the_pole():
    settings = PpoSettings(3e-3, 0.98, 32, 0.9, 6, 4)
    net = ActorCriticNet(4, 1, 2, trunk=(64,), trunks="apart")
    learner = ppo.make_learner(settings, net, SEEDS)
    loop = Loop(LoopSettings(960, 0, log_every=32, assess_rounds=1), CartPole(8), learner)
    while loop.round < 960:
        play(loop, settings.horizon, settings.gamma, settings.lam)
    env = CartPole(20)
    state, observation = env.reset(SEEDS + 1)
    alive, lasted = torch.ones(2, 20), torch.zeros(2, 20)
    for _ in range(200):
        result = env.step(state, learner.act(observation, 0, explore=False))
        lasted, alive = lasted + alive, alive * ~result.terminated
        state, observation = result.state, result.observation
    assert lasted.mean(1).min() > 100  # at random it lasts 22 steps

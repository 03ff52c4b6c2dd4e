"""The critic serves a slot as the environment does, from what is believed; a policy takes the best candidate."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.policies.learned.imitation.slots import compiled, observed, opened, random_choices, world
from torch import Tensor

from coinfer.envs import offload
from coinfer.envs.batched_env import reward_of
from coinfer.evaluate import oracles
from coinfer.policies.candidates import candidates_of
from coinfer.policies.learned.export import export
from coinfer.policies.learned.imitation.candidate_policy import CandidatePolicy, decision_candidates, take_options
from coinfer.policies.learned.imitation.critic import LATENESS_WEIGHT, MOST_LATE, Critic
from coinfer.policies.learned.imitation.flat_net import FlatNet
from coinfer.policies.learned.imitation.graph_net import GraphNet
from coinfer.policies.onnx import load_policy
from coinfer.types import OffloadObservation

CRITIC = Critic(0.1, 0.5)
DROPS = {"servers": [{"slowdown": 1.0, "capacity": 2}, {"slowdown": 2.0, "capacity": 1}], "refused": "drop"}


def env_scores(scenario, choices):
    """The environment's own rewards of S decisions, [B, S], and how much of the critic's is for lateness."""
    tables, state = opened(scenario)
    servers, count = world(scenario).edge.servers, choices.shape[1]
    tiled, flat = oracles.tile(state, count), choices.flatten(0, 1)
    decision = offload.OffloadDecision(torch.div(flat, servers, rounding_mode="floor"), flat % servers)
    served = offload.serve(tables, tiled, decision).outcome
    late = LATENESS_WEIGHT * (served.latency_s / tiled.draws.deadline_s).clamp(max=MOST_LATE) * ~served.in_time
    reward = reward_of(scenario.reward)(served, tiled.draws)
    return reward.unflatten(0, (-1, count)), late.sum(-1).unflatten(0, (-1, count))


def test_it_is_the_environments_reward_if_nothing_is_uncertain():
    scenario = compiled()
    tables, state = opened(scenario)
    observation = offload.observe(tables, state)
    choices = random_choices(candidates_of(observation).mask, 20)
    reward, late = env_scores(scenario, choices)
    torch.testing.assert_close(CRITIC(observation, choices), reward - late)
    assert reward.std() > 0.1


def test_places_are_given_in_the_order_of_the_tasks():
    scenario = compiled(**DROPS)
    tables, state = opened(scenario)
    observation = offload.observe(tables, state)
    choices = random_choices(candidates_of(observation).mask, 20)
    reward, _ = env_scores(scenario, choices)
    assert ((CRITIC(observation, choices) - reward).abs() <= 10 * LATENESS_WEIGHT * MOST_LATE).all()
    sends = candidates_of(observation).on_device[:, None].expand(-1, 20, -1, -1).gather(-1, choices[..., None])[..., 0]
    assert ((~sends & (choices % 2 == 0)).sum(-1) > 2).any(), "some servers are asked for more than they have"


@pytest.mark.parametrize("scenario", ["grle-s3", "grle-s4"])
def test_it_knows_what_is_believed_and_not_the_truth(scenario: str):
    uncertain = compiled(scenario)
    tables, state = opened(uncertain)
    believed, true = offload.observe(tables, state), oracles.true_observation(tables, state)
    choices = random_choices(candidates_of(believed).mask, 20)
    reward, late = env_scores(uncertain, choices)
    torch.testing.assert_close(CRITIC(true, choices), reward - late)
    assert not torch.allclose(CRITIC(believed, choices), reward - late)


def test_candidates_begin_with_the_networks_own_and_never_hurt():
    observation = observed(compiled("grle-s2"))
    choices = candidates_of(observation)
    logits = torch.randn(choices.mask.shape, generator=torch.Generator().manual_seed(0)).double()
    noise = torch.randn((6, 3, *logits.shape[1:]), generator=torch.Generator().manual_seed(1)).double()
    found = decision_candidates(logits, choices.mask, 12, noise)
    assert found.shape == (6, 12, 5)
    assert found[:, 0].equal(logits.masked_fill(~choices.mask, -torch.inf).argmax(-1))
    assert choices.mask[:, None].expand(-1, 12, -1, -1).gather(-1, found[..., None]).all()
    assert len(found[0].unique(dim=0)) > 6
    scores = CRITIC(observation, found)
    assert (scores.amax(-1) >= scores[:, 0]).all()
    assert (scores.amax(-1) > scores[:, 0]).any()


def test_options_keep_their_numbers():
    scenario = compiled()
    observation, options = observed(scenario), torch.tensor([4, 8])
    assert take_options(observation, options).option_accuracy.equal(observation.option_accuracy[..., [4, 8]])
    net = GraphNet(2, hidden=4, rounds=1)
    policy = CandidatePolicy(net, net.initial(torch.tensor([0])), CRITIC, 6, options=options)
    assert set(policy(observation).option.unique().tolist()) == {4, 8}


def test_networks_side_by_side_decide_as_each_alone():
    observation, net = observed(compiled()), FlatNet(5, 10, 2, (8,))
    flat = net.initial(torch.arange(2))
    both = CandidatePolicy(net, flat, CRITIC, 6)(observation)
    for number, rows in enumerate((slice(0, 3), slice(3, 6))):
        alone = CandidatePolicy(net, flat[number : number + 1], CRITIC, 6)
        decided = alone(OffloadObservation(*(field[rows] for field in observation)))
        assert decided.option.equal(both.option[rows])
        assert decided.server.equal(both.server[rows])


@pytest.mark.slow
def test_the_exported_policy_decides_alike_for_any_number_of_devices_and_servers(tmp_path: Path):
    net = GraphNet(2, hidden=6, rounds=1)
    policy = CandidatePolicy(net, net.initial(torch.tensor([1])), CRITIC, 4, 2, torch.tensor([0, 2, 4, 6, 8]))
    path = tmp_path / "policy.onnx"
    example = single(observed(compiled("grle-s2", 4), 2))
    export(path, policy, example, scheme="grle", scenario="x", scenario_fingerprint="", dynamic_axes="BKN")
    exported = load_policy(path)
    three = {"servers": [{"slowdown": 1.0}, {"slowdown": 1.5}, {"slowdown": 2.0}]}
    for scenario in (compiled("grle-s2", 7), compiled("grle-s4", 3, **three)):
        seen = single(observed(scenario, 30))
        expected, found = policy(seen), exported(OffloadObservation(*(np.asarray(field) for field in seen)))
        for mine, its in zip(expected, found, strict=True):
            np.testing.assert_array_equal(mine.numpy()[seen.task_mask], its[seen.task_mask])
        assert len(expected.option.unique()) > 2


def single(observation: OffloadObservation[Tensor]) -> OffloadObservation[Tensor]:
    """Return the observation in float32, as devices have it."""
    return OffloadObservation(*(field.float() if field.is_floating_point() else field for field in observation))

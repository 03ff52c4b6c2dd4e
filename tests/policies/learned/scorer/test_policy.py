"""The scorer: what it contains, what it may not see, and that its judgement is the physics of the queue."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.policies.observations import observation, random_observation

from coinfer.policies.bounds import slot
from coinfer.policies.candidates import candidates_of, predicted_s
from coinfer.policies.heuristics import offload
from coinfer.policies.heuristics.insertion import insertion
from coinfer.policies.learned.scorer import features as scorer_features
from coinfer.policies.learned.scorer import networks as scorer_networks
from coinfer.policies.learned.scorer import policy as scorer
from coinfer.policies.learned.scorer import weights as scorer_weights
from coinfer.types import DEVICE, OffloadObservation

GREEDY = scorer_weights.unpack(scorer_weights.greedy_weights()[None])
FIRST = scorer_weights.unpack(scorer_weights.initial_weights()[None])


def trained_like(seed: int, policies: int = 1) -> torch.Tensor:
    """Weights far from the first ones, so that every price counts."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((policies, scorer_weights.SIZE), generator=generator)
    return scorer_weights.initial_weights(seed) + 0.2 * noise


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), tasks=st.integers(1, 7), options=st.integers(2, 4), servers=st.integers(1, 5))
def test_without_prices_and_keys_it_is_sequential_greedy(seed, tasks, options, servers):
    seen = random_observation(seed, 6, tasks, options, servers)
    own, greedy = scorer.decide(GREEDY, seen), offload.sequential_greedy()(seen)
    for mine, theirs in zip(own, greedy, strict=True):
        assert torch.equal(mine[seen.task_mask], theirs[seen.task_mask])


@pytest.mark.parametrize("seed", range(3))
def test_a_task_that_is_alone_goes_where_it_is_done_first(seed):
    seen = random_observation(seed, 50, 1, 4, 5)
    own, greedy = scorer.decide(scorer_weights.unpack(trained_like(seed)), seen), offload.sequential_greedy()(seen)
    for mine, theirs in zip(own, greedy, strict=True):
        assert torch.equal(mine[seen.task_mask], theirs[seen.task_mask])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), tasks=st.integers(1, 6), options=st.integers(2, 4), servers=st.integers(1, 5))
def test_only_possible_choices_are_taken(seed, tasks, options, servers):
    seen = random_observation(seed, 5, tasks, options, servers)
    decision = scorer.decide(scorer_weights.unpack(trained_like(seed)), seen)
    task_mask = seen.task_mask
    taken = seen.option_mask.gather(-1, decision.option[..., None])[..., 0]
    sends = seen.option_upload_bits.gather(-1, decision.option[..., None])[..., 0] > 0
    room = seen.server_room.gather(-1, decision.server.clamp(min=0))
    assert (taken | ~task_mask).all()
    assert torch.equal((decision.server != DEVICE)[task_mask], sends[task_mask])
    assert (~sends | (room > 0) | ~task_mask).all()


@pytest.mark.parametrize("seed", range(3))
def test_permuted_servers_permute_the_decision(seed):
    seen = random_observation(seed, 20, 5, 3, 4)
    order = torch.tensor([2, 0, 3, 1])
    permuted = seen._replace(
        option_server_s=seen.option_server_s[..., order],
        uplink_bps=seen.uplink_bps[..., order],
        uplink_backlog_s=seen.uplink_backlog_s[..., order],
        server_backlog_s=seen.server_backlog_s[..., order],
        server_room=seen.server_room[..., order],
    )
    weights = scorer_weights.unpack(trained_like(seed))
    plain, moved = scorer.decide(weights, seen), scorer.decide(weights, permuted)
    back = torch.where(moved.server == DEVICE, DEVICE, order[moved.server.clamp(min=0)])
    assert torch.equal(moved.option[seen.task_mask], plain.option[seen.task_mask])
    assert torch.equal(back[seen.task_mask], plain.server[seen.task_mask])


def test_permuted_tasks_permute_the_decision():
    """Their keys differ, so the order in which they decide does not depend on their numbers."""
    seen = random_observation(4, 20, 6, 3, 4)._replace(server_room=torch.full((20, 4), 9.0, dtype=torch.float64))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    by_task = {name for name, value in seen._asdict().items() if value.shape[1] == 6}
    permuted = OffloadObservation(
        **{name: value[:, order] if name in by_task else value for name, value in seen._asdict().items()}
    )
    weights = scorer_weights.unpack(trained_like(4))
    plain, moved = scorer.decide(weights, seen), scorer.decide(weights, permuted)
    for mine, theirs in zip(plain, moved, strict=True):
        assert torch.equal(mine[:, order][permuted.task_mask], theirs[permuted.task_mask])


def test_policies_side_by_side_decide_as_alone():
    seen = random_observation(2, 12, 5, 3, 4)
    weights = trained_like(7, policies=3)
    together = scorer.decide(scorer_weights.unpack(weights), seen)
    for number in range(3):
        part = slice(4 * number, 4 * number + 4)
        alone = scorer.decide(
            scorer_weights.unpack(weights[number : number + 1]), OffloadObservation(*(f[part] for f in seen))
        )
        for both, one in zip(together, alone, strict=True):
            assert torch.equal(both[part][seen.task_mask[part]], one[seen.task_mask[part]])


def test_tasks_that_are_not_there_change_nothing():
    seen = random_observation(9, 30, 6, 3, 4)
    other = random_observation(10, 30, 6, 3, 4)
    by_task = {name for name, value in seen._asdict().items() if value.shape[1] == 6} - {"task_mask"}

    def mixed(name: str, mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        if name not in by_task:
            return mine
        task_mask = seen.task_mask.reshape(*seen.task_mask.shape, *[1] * (mine.dim() - 2))
        return torch.where(task_mask, mine, theirs)

    pairs = zip(seen._asdict().items(), other, strict=True)
    changed = OffloadObservation(*(mixed(name, mine, theirs) for (name, mine), theirs in pairs))
    weights = scorer_weights.unpack(trained_like(1))
    for mine, theirs in zip(scorer.decide(weights, seen), scorer.decide(weights, changed), strict=True):
        assert torch.equal(mine[seen.task_mask], theirs[seen.task_mask])


def test_with_one_order_it_is_the_first_of_them():
    seen = random_observation(3, 40, 6, 3, 4)
    flat = trained_like(5)[0]
    whole, first = (scorer_weights.unpack(weights[None]) for weights in (flat, scorer_weights.select_orders(flat, [0])))
    made = scorer.prepare(whole, seen)
    way = scorer.sequence(seen, made)[:, 0]
    assert torch.equal(scorer.sequence(seen, scorer.prepare(first, seen))[:, 0], way)


@pytest.mark.parametrize("seed", range(4))
def test_what_it_judges_by_is_the_physics_of_the_queue(seed):
    """Without prices the cost of any decisions is their latency, as the bounds on a slot have it."""
    seen = random_observation(seed, 50, 7, 3, 4)._replace(server_room=torch.full((50, 4), 9.0, dtype=torch.float64))
    found = candidates_of(seen)
    made = scorer.prepare(FIRST, seen)
    way = scorer.sequence(seen, made)
    stays = way == made.actions.rows.ready_s.shape[-1] - 1
    choice = torch.where(stays, (made.actions.local * found.servers)[:, None], way)
    cost = slot.slot_latency_s(seen, choice, found).sum(-1)
    torch.testing.assert_close(
        scorer.slot_cost(seen, made, way) / scorer.TICKS, cost, rtol=0, atol=7 * 3 / scorer.TICKS
    )


def test_those_ready_at_once_are_served_in_the_order_of_their_numbers():
    seen = observation(
        device_s=torch.tensor([[[0.1, 9.0], [0.1, 9.0], [0.1, 9.0]]]),
        upload_bits=torch.tensor([[[1e5, 0.0]] * 3]),
        server_s=torch.tensor([[[[0.5], [0.0]], [[0.2], [0.0]], [[0.1], [0.0]]]]),
        uplink_bps=torch.full((1, 3, 1), 1e7),
        server_backlog_s=torch.zeros(1, 1),
    )
    made = scorer.prepare(FIRST, seen)
    way = torch.zeros((1, scorer_weights.ORDERS, 3), dtype=torch.int64)
    expected_s = torch.full((1, scorer_weights.ORDERS), 0.61 + 0.81 + 0.91, dtype=torch.float64)
    torch.testing.assert_close(scorer.slot_cost(seen, made, way) / scorer.TICKS, expected_s, rtol=0, atol=1e-4)


def test_who_is_ready_first_goes_first_and_counts_the_delay_of_the_others():
    """On server 0 the second task would be done at 0.11 + 0.3, but the first one, which comes later, would wait 0.3; on
    server 1 it is done at 0.5."""
    seen = observation(
        device_s=torch.tensor([[[0.2, 9.0], [0.1, 9.0]]]),
        upload_bits=torch.tensor([[[1e5, 0.0]] * 2]),
        server_s=torch.tensor([[[[0.1, 9.0], [0.0, 0.0]], [[0.3, 0.39], [0.0, 0.0]]]]),
        uplink_bps=torch.full((1, 2, 2), 1e7),
        server_backlog_s=torch.zeros(1, 2),
    )
    flat = scorer_weights.select_orders(scorer_weights.greedy_weights(), [0])
    assert scorer.decide(scorer_weights.unpack(flat[None]), seen).server.tolist() == [[0, 1]]
    flat[-2] = 1
    behind = seen._replace(option_server_s=seen.option_server_s.clone())
    behind.option_server_s[0, 1, 0, 1] = 0.65
    assert scorer.decide(scorer_weights.unpack(flat[None]), seen).server.tolist() == [[0, 1]]
    assert scorer.decide(scorer_weights.unpack(flat[None]), behind).server.tolist() == [[0, 0]]


def single(seen: OffloadObservation) -> OffloadObservation:
    return OffloadObservation(*(field.float() if field.is_floating_point() else field for field in seen))


@pytest.mark.parametrize("shape", [(7, 3, 4), (40, 2, 10)])
def test_every_sum_is_exact_in_single_precision(shape):
    """The same in float64 where only the sums are: what is summed are whole numbers that are small enough."""
    seen = single(random_observation(1, 40, *shape))
    flat = 9 * torch.randn((1, scorer_weights.SIZE), generator=torch.Generator().manual_seed(3))
    weights = scorer_weights.unpack(flat)
    found = candidates_of(seen)
    parts = scorer_features.features(seen, found, predicted_s(found, seen.server_backlog_s))
    limits = zip(parts, (weights.pair, weights.task, weights.server, weights.world), strict=True)
    most = weights.first_bias.abs().double() * scorer_features.STEPS
    for part, matrix in limits:
        assert torch.equal(part, part.round())
        assert -2 * scorer_features.STEPS <= part.min() <= part.max() <= scorer_features.STEPS
        most = most + (part.abs().flatten(0, -2).amax(0)[:, None] * matrix[0].abs()).sum(0)
        exact = part.double().flatten(0, -2) @ matrix[0].double()
        assert torch.equal((part.flatten(0, -2) @ matrix[0]).double(), exact)
    assert most.max() * scorer_features.STEPS < 2**24
    made = scorer.prepare(weights, seen)
    way = scorer.sequence(seen, made)
    twice = scorer.Prepared(
        scorer_networks.Actions(
            scorer_networks.Rows(*(part.double() for part in made.actions.rows)),
            made.actions.price_s.double(),
            made.actions.local,
        ),
        *(part.double() if part.is_floating_point() else part for part in made[1:]),
    )
    doubled = OffloadObservation(*(field.double() if field.is_floating_point() else field for field in seen))
    assert torch.equal(scorer.slot_cost(seen, made, way), scorer.slot_cost(doubled, twice, way))


def test_a_world_decides_the_same_in_any_batch():
    seen = single(random_observation(6, 64, 9, 3, 4))
    weights = scorer_weights.unpack(trained_like(3))
    together = scorer.decide(weights, seen)
    for world in range(64):
        alone = scorer.decide(weights, OffloadObservation(*(field[world] for field in seen)))
        task_mask = seen.task_mask[world]
        for both, one in zip(together, alone, strict=True):
            assert torch.equal(both[world][task_mask], one[task_mask])


@pytest.mark.parametrize("seed", range(3))
def test_orders_bring_it_closer_to_the_best_of_a_slot_than_sequential_greedy(seed):
    seen = random_observation(seed, 100, 4, 2, 2)._replace(server_room=torch.full((100, 2), 9.0, dtype=torch.float64))
    best = slot.exhaustive(seen).cost
    cost = {}
    policies = {"greedy": scorer.scorer(GREEDY), "orders": scorer.scorer(FIRST), "insertion": insertion()}
    for name, policy in policies.items():
        choice = candidates_of(seen).choice(policy(seen))[:, None]
        cost[name] = (slot.slot_latency_s(seen, choice).sum(-1)[:, 0] / best.clamp(min=1e-9))[best > 0].mean().item()
    assert 1 <= cost["orders"] < cost["greedy"] < 1.2
    assert 1 <= cost["insertion"] < cost["greedy"]
    assert cost["orders"] < 1.02

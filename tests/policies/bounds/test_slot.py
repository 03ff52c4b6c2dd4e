"""Bounds bound: exhaustive search, HiGHS and plain Python agree, and no policy beats them."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.policies.observations import random_observation

from coinfer.policies.bounds import slot, slot_program
from coinfer.policies.candidates import candidates_of
from coinfer.policies.heuristics import offload
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation

small = st.tuples(st.integers(0, 100_000), st.integers(1, 4), st.integers(2, 3), st.integers(1, 3))


def world(seen: OffloadObservation, index: int) -> OffloadObservation:
    return OffloadObservation(*(field[index] for field in seen))


def by_hand(seen: OffloadObservation, chosen: list[tuple[int, int]]) -> float:
    """Summed latency of one slot, served in plain Python; infinite where a server has too little room."""
    waiting: dict[int, list[tuple[float, int, float]]] = {}
    total_s = 0.0
    for k, (option, server) in enumerate(chosen):
        if not seen.task_mask[k]:
            continue
        ready_s = float(seen.device_backlog_s[k] + seen.option_device_s[k, option])
        if server == DEVICE:
            total_s += ready_s
            continue
        ready_s = max(ready_s, float(seen.uplink_backlog_s[k, server]))
        ready_s += float(seen.option_upload_bits[k, option] / seen.uplink_bps[k, server])
        waiting.setdefault(server, []).append((ready_s, k, float(seen.option_server_s[k, option, server])))
    for server, queue in waiting.items():
        if len(queue) > seen.server_room[server]:
            return float("inf")
        free_s = float(seen.server_backlog_s[server])
        for ready_s, _, service_s in sorted(queue):
            free_s = max(free_s, ready_s) + service_s
            total_s += free_s
    return total_s


def all_choices(seen: OffloadObservation) -> list[list[tuple[int, int]]]:
    """Of each task, what it may choose; nothing to choose where there is no task."""
    found = []
    for k, there in enumerate(seen.task_mask):
        pairs = []
        for option in range(seen.option_mask.shape[-1]):
            if seen.option_mask[k, option] and seen.option_upload_bits[k, option] == 0:
                pairs.append((option, DEVICE))
            elif seen.option_mask[k, option]:
                pairs += [(option, n) for n in range(seen.uplink_bps.shape[-1]) if seen.server_room[n] > 0]
        found.append(pairs if there else pairs[:1])
    return found


@settings(max_examples=30, deadline=None)
@given(small)
def test_exhaustive_search_and_highs_agree_with_plain_python(drawn):
    seen = random_observation(drawn[0], 2, *drawn[1:])
    best = slot.exhaustive(seen)
    for index in range(2):
        one = world(seen, index)
        expected_s = min(by_hand(one, chosen) for chosen in itertools.product(*all_choices(one)))
        solved = slot_program.least_latency(one)
        assert best.cost[index].item() == pytest.approx(expected_s, rel=1e-12)
        assert solved.cost == pytest.approx(expected_s, rel=1e-6, abs=1e-9)
        assert solved.bound <= expected_s * (1 + 1e-6) + 1e-9
        for decision in (OffloadDecision(*(part[index] for part in best.decision)), solved.decision):
            assert by_hand(one, list(zip(*(part.tolist() for part in decision), strict=True))) == pytest.approx(
                expected_s, rel=1e-6
            )


@settings(max_examples=20, deadline=None)
@given(small)
def test_fewest_late_tasks_agree(drawn):
    seen = random_observation(drawn[0], 3, *drawn[1:])
    best = slot.exhaustive(seen, slot.late_cost(seen))
    for index in range(3):
        assert slot_program.fewest_late(world(seen, index)).cost == pytest.approx(best.cost[index].item(), abs=1e-6)


@pytest.mark.parametrize("name", offload.OFFLOAD)
@settings(max_examples=10, deadline=None)
@given(small)
def test_no_policy_beats_the_optimum(name, drawn):
    seen = random_observation(drawn[0], 20, *drawn[1:])
    decision = offload.OFFLOAD[name](drawn[0])(seen)
    choice = candidates_of(seen).choice(decision)[..., None, :]
    for cost in (slot.latency_cost(seen), slot.late_cost(seen)):
        best = slot.exhaustive(seen, cost)
        assert (best.cost <= cost(choice)[..., 0] + 1e-12).all()


@settings(max_examples=20, deadline=None)
@given(small)
def test_coordinate_descent_lies_between_its_start_and_the_optimum(drawn):
    seen = random_observation(drawn[0], 20, *drawn[1:])
    start = offload.best_cut()(seen)
    found = slot.coordinate_descent(seen, start=start)
    at_start = slot.latency_cost(seen)(candidates_of(seen).choice(start)[..., None, :])[..., 0]
    assert (found.cost <= at_start).all()
    assert (found.cost >= slot.exhaustive(seen).cost - 1e-12).all()
    reached = slot.latency_cost(seen)(candidates_of(seen).choice(found.decision)[..., None, :])[..., 0]
    assert torch.equal(reached, found.cost)


def test_highs_solves_a_slot_that_is_too_large_for_exhaustive_search():
    seen = random_observation(8, 1, 8, 4, 4)
    seen = seen._replace(task_mask=torch.ones_like(seen.task_mask), server_room=torch.full((1, 4), 3.0))
    with pytest.raises(slot.BoundError, match="ways to decide a slot of 8 tasks"):
        slot.exhaustive(seen)
    solved = slot_program.least_latency(world(seen, 0))
    near = slot.coordinate_descent(seen)
    assert solved.bound <= solved.cost + 1e-9
    assert solved.cost <= near.cost.item() + 1e-9
    assert solved.cost == pytest.approx(
        by_hand(world(seen, 0), list(zip(*(part.tolist() for part in solved.decision), strict=True))), rel=1e-6
    )


def test_a_slot_without_tasks_costs_nothing():
    seen = random_observation(1, 1, 2, 2, 2)
    seen = seen._replace(task_mask=torch.zeros_like(seen.task_mask))
    assert slot.exhaustive(seen).cost.item() == 0
    assert slot_program.least_latency(world(seen, 0)).cost == 0

"""What agents choose from, against brute force and against sequential greedy task by task."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.policies.observations import random_observation

from coinfer.physics.latency import offload_latency_s
from coinfer.policies.candidates import candidates_of, predicted_s
from coinfer.policies.learned.placement.placements import (
    PLACEMENT_FEATURES,
    Placements,
    by_load,
    fixed_cut,
    flat_features,
    joint,
    placement_features,
    ranked_cut,
    ranked_features,
    running_s,
)
from coinfer.types import DEVICE, OffloadObservation

WORLDS, TASKS, OPTIONS, SERVERS = 3, 5, 4, 3
SEEDS = st.integers(0, 10_000)


def drawn(seed: int) -> OffloadObservation:
    return random_observation(seed, WORLDS, TASKS, OPTIONS, SERVERS)


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_the_cut_is_the_best_one_were_the_server_idle(seed):
    seen = drawn(seed)
    placements = fixed_cut(seen)
    idle_s = offload_latency_s(seen._replace(server_backlog_s=torch.zeros_like(seen.server_backlog_s)))
    idle_s = torch.where(seen.option_mask[..., None], idle_s, torch.inf)
    for world in range(WORLDS):
        for task in range(TASKS):
            by_option = idle_s[world, task]
            here_s = min(by_option[o, 0].item() for o in range(OPTIONS) if seen.option_upload_bits[world, task, o] == 0)
            reachable = [n for n in range(SERVERS) if seen.server_room[world, n] > 0]
            there_s = {n: by_option[:-1, n].min().item() for n in reachable if by_option[:-1, n].isfinite().any()}
            sensible = here_s <= max(seen.deadline_s[world, task].item(), min(there_s.values(), default=torch.inf))
            expected = [n in there_s for n in range(SERVERS)] + [sensible]
            assert placements.mask[world, task].tolist() == expected
            for n in there_s:
                assert by_option[placements.option[world, task, n], n].item() == pytest.approx(there_s[n])
            assert placements.server[world, task, -1] == DEVICE


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_joint_offers_are_the_choices(seed):
    seen = drawn(seed)
    placements, found = joint(seen), candidates_of(seen)
    place = placements.mask.int().argmax(-1)
    for mine, theirs in zip(placements.decision(place), found.decision(place), strict=True):
        assert mine.equal(theirs)
    assert placements.mask.equal(found.mask)


def one_after_another(seen: OffloadObservation, placements: Placements) -> torch.Tensor:
    """[.., K, N] the running queues, with plain loops."""
    rows = []
    for world in range(WORLDS):
        free = seen.server_backlog_s[world].tolist()
        for task in range(TASKS):
            rows.append(list(free))
            latency = {}
            for place in range(placements.mask.shape[-1]):
                if placements.mask[world, task, place]:
                    server, ready = (
                        int(placements.server[world, task, place]),
                        float(placements.ready_s[world, task, place]),
                    )
                    service = float(placements.service_s[world, task, place])
                    latency[place] = (ready if server == DEVICE else max(free[server], ready) + service), server
            soonest, server = min(latency.values(), key=lambda entry: entry[0])
            if server != DEVICE and seen.task_mask[world, task]:
                free[server] = soonest
    return torch.tensor(rows, dtype=torch.float64).reshape(WORLDS, TASKS, SERVERS)


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_running_queues_are_those_of_sequential_greedy(seed):
    """Behind the last task there is, nothing is looked at."""
    seen = drawn(seed)
    placements = fixed_cut(seen)
    upto = int(seen.task_mask.sum(-1).amax())
    for max_tasks, count in ((TASKS, TASKS), (None, upto)):
        found = running_s(seen, placements, max_tasks)
        torch.testing.assert_close(found[:, :count], one_after_another(seen, placements)[:, :count])


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_features_are_numbers_of_about_one(seed):
    seen = drawn(seed)
    for make in (fixed_cut, joint):
        placements = make(seen)
        found = placement_features(seen, placements)
        assert found.shape == (*placements.mask.shape, PLACEMENT_FEATURES)
        assert bool(found.isfinite().all())
        assert float(found.abs().max()) < 5
        assert not found[~(placements.mask & seen.task_mask[..., None])].any()
    flat = flat_features(seen, fixed_cut(seen))
    assert flat.shape == (WORLDS, TASKS * (4 + SERVERS) + 2 * SERVERS)
    assert bool(flat.isfinite().all())


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_ranked_servers_are_the_same_ones_by_rising_load(seed):
    loads = torch.rand(WORLDS, SERVERS, dtype=torch.float64)
    loads[0] = loads[0, 0]
    seen = drawn(seed)._replace(server_backlog_s=loads)
    plain, ranked = fixed_cut(seen), ranked_cut(seen)
    order = by_load(seen)
    assert order[0].tolist() == list(range(SERVERS))
    assert bool((loads.gather(-1, order).diff(dim=-1) >= 0).all())
    assert torch.equal(ranked.server[..., SERVERS], plain.server[..., SERVERS])
    for rank in range(SERVERS):
        same = order[:, rank, None, None].expand(WORLDS, TASKS, 1)
        for name in ("option", "server", "ready_s", "service_s", "mask"):
            assert torch.equal(getattr(ranked, name)[..., rank], getattr(plain, name).gather(-1, same)[..., 0]), name
    where = loads.sort(-1)
    sorted_seen = seen._replace(
        server_backlog_s=where.values,
        server_room=seen.server_room.gather(-1, where.indices),
        uplink_bps=seen.uplink_bps.gather(-1, where.indices[:, None].expand(WORLDS, TASKS, SERVERS)),
        uplink_backlog_s=seen.uplink_backlog_s.gather(-1, where.indices[:, None].expand(WORLDS, TASKS, SERVERS)),
    )
    assert torch.equal(ranked_features(seen, ranked)[1:], flat_features(sorted_seen, plain)[1:])


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_servers_in_another_order_look_the_same(seed):
    seen = drawn(seed)._replace(server_backlog_s=torch.rand(WORLDS, SERVERS, dtype=torch.float64))
    turned = seen._replace(
        option_server_s=seen.option_server_s.flip(-1),
        uplink_bps=seen.uplink_bps.flip(-1),
        uplink_backlog_s=seen.uplink_backlog_s.flip(-1),
        server_backlog_s=seen.server_backlog_s.flip(-1),
        server_room=seen.server_room.flip(-1),
        observation_age_s=seen.observation_age_s.flip(-1),
    )
    plain, other = (placement_features(o, fixed_cut(o), max_tasks=TASKS) for o in (seen, turned))
    torch.testing.assert_close(plain[..., :-1, :].flip(-2), other[..., :-1, :])
    torch.testing.assert_close(plain[..., -1, :], other[..., -1, :])


def test_the_seen_queues_are_greedys():
    """Without rounds, the best place by the first feature is the papers' Greedy among servers."""
    seen = drawn(1)
    placements = fixed_cut(seen)
    found = torch.where(
        placements.mask, placement_features(seen, placements, running_queues=False)[..., 0], torch.inf
    ).argmin(-1)
    every = predicted_s(candidates_of(seen), seen.server_backlog_s).unflatten(-1, (OPTIONS, SERVERS))
    decision = placements.decision(found)
    for world in range(WORLDS):
        for task in range(TASKS):
            option, server = int(decision.option[world, task]), int(decision.server[world, task])
            if not seen.task_mask[world, task] or server == DEVICE:
                continue
            mine = float(every[world, task, option, server])
            options = placements.option[world, task, :SERVERS].tolist()
            others = [every[world, task, o, n] for n, o in enumerate(options) if placements.mask[world, task, n]]
            assert mine == pytest.approx(float(min(others)))

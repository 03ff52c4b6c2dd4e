"""Servers that batch and load: the vectorised environment against its event-driven reference."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.envs.worlds import random_world, serving_world

from coinfer.envs import offload, rewards
from coinfer.envs.reference import offload as reference
from coinfer.types import OffloadDecision

SEEDS = st.integers(0, 2**32 - 1)


def decisions(rng: np.random.Generator, world) -> list[OffloadDecision]:
    shape = (world.edge.slots, world.edge.tasks)
    option, server = rng.integers(0, world.options, shape), rng.integers(0, world.edge.servers, shape)
    return [OffloadDecision(torch.tensor(option[[t]]), torch.tensor(server[[t]])) for t in range(world.edge.slots)]


def final_latencies(world, seed: int, decided: list[OffloadDecision]) -> tuple[dict, float]:
    """Latency of every task by slot and number, with what later slots changed, and the sum of all rewards."""
    tables = offload.load(world, dtype=torch.float64)
    state, found, total = offload.reset(tables, torch.tensor([seed])), {}, 0.0
    for t, decision in enumerate(decided):
        task_mask = state.draws.task_mask[0]
        step = offload.step(tables, state, decision, rewards.latency)
        revised = step.info.revisions
        assert revised is not None
        for r in revised.mask[0].nonzero()[:, 0].tolist():
            key = (int(revised.slot[0, r]), int(revised.number[0, r]))
            assert found[key] == pytest.approx(float(revised.old_latency_s[0, r]))
            found[key] = float(revised.latency_s[0, r])
        found |= {(t, k): float(step.outcome.latency_s[0, k]) for k in task_mask.nonzero()[:, 0].tolist()}
        total += float(step.reward[0])
        state = step.state
    return found, total


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.booleans(), st.booleans())
def test_equals_the_event_driven_reference(seed, loads, hurried):
    rng = np.random.default_rng(seed)
    world = serving_world(rng, random_world(rng, staleness_slots=0), loads=loads, hurried=hurried)
    decided = decisions(rng, world)
    slots = reference.draw_episode(world, seed)
    episode = reference.run(world, slots, lambda t, k: (int(decided[t].option[0, k]), int(decided[t].server[0, k])))
    found, total = final_latencies(world, seed, decided)
    expected = {(t, k): o.latency_s for t, slot in enumerate(episode.outcomes) for k, o in slot.items()}
    assert found == pytest.approx(expected, rel=1e-6)
    assert total == pytest.approx(-sum(expected.values()))

"""Queues of wireless-powered devices: bits are neither lost nor made, and are served as the physics says."""

import torch

from coinfer.envs import data_queues, wireless_power
from coinfer.evaluate import queues
from coinfer.physics import frame_rates
from coinfer.scenario.compile import open_world

SMALL = {"devices": 4, "slots": 100}


def opened(**changes):
    return data_queues.load(open_world("droo-queues", {**SMALL, **changes}).world)


def test_bits_are_neither_lost_nor_made():
    tables = opened()
    state = data_queues.reset(tables, torch.arange(3))
    modes = torch.tensor([True, False, True, False]).expand(3, -1)
    arrived = state.queue_bits.clone()
    served = torch.zeros_like(arrived)
    for _ in range(20):
        before = state.queue_bits
        step = data_queues.step(tables, state, modes)
        assert (step.served_bits <= before).all()
        assert (step.served_bits >= 0).all()
        served += step.served_bits
        arrived += step.state.queue_bits - before + step.served_bits
        state = step.state
    torch.testing.assert_close(arrived - served, state.queue_bits)
    # the sum of 21 exponential arrivals of 4 devices in 3 worlds
    assert 0.7 < arrived.mean().item() / (21 * tables.world.arrival_bits) < 1.3


def test_long_queues_are_served_at_the_rate_that_the_score_promises():
    tables = opened()
    state = data_queues.reset(tables, torch.arange(5))
    state = state._replace(queue_bits=1e9 * torch.rand(5, 4, dtype=torch.float64) + 1e9)
    modes = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    weight = data_queues.weights(tables, state)
    promised = data_queues.scores_bps(tables, state, modes[:, None])[:, 0]
    served = (weight * data_queues.step(tables, state, modes).served_bits).sum(-1)
    torch.testing.assert_close(served, promised, rtol=1e-9, atol=0)
    frames = tables.world.frames
    assert promised.equal(frame_rates.ungrouped_rates_bps(frames, state.frame.gain, weight, modes[:, None])[:, 0])


def test_a_world_follows_from_its_seed_and_the_decisions_alone():
    tables = opened()
    alone, many = (data_queues.reset(tables, seeds) for seeds in (torch.tensor([5]), torch.arange(9)))
    for _ in range(3):
        torch.testing.assert_close(many.queue_bits[5:6], alone.queue_bits)
        states = (alone, many)
        alone, many = (data_queues.step(tables, one, one.frame.gain > 3e-6).state for one in states)
    assert not many.queue_bits[4].equal(many.queue_bits[5])
    plain = wireless_power.reset(wireless_power.load(open_world("droo", SMALL).world), torch.arange(9))
    assert data_queues.reset(tables, torch.arange(9)).frame.gain.equal(plain.gain), "channels are those without queues"


def test_who_minds_the_queues_keeps_them_shorter():
    world = open_world("droo-queues", {**SMALL, "queues.arrival_bits": 300e3}).world
    runs = {name: queues.run(world, name, 3, 1).measures for name in ("optimum", "coordinate-descent", "myopic")}
    for name in ("optimum", "coordinate-descent"):
        assert runs[name]["longest_bits"].mean() < 0.7 * runs["myopic"]["longest_bits"].mean(), name
        assert runs[name]["queue_growth"].mean() < 0.5 * runs["myopic"]["queue_growth"].mean(), name

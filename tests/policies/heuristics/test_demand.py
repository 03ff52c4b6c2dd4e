"""The rule that remembers demand: when a load pays, what it spares, and that without prices it is the plain rule."""

import numpy as np
import pytest
import torch
from tests.policies.heuristics.test_serving import open_servers

from coinfer.envs import offload, rewards
from coinfer.evaluate.serving_oracles import serving_greedy
from coinfer.evaluate.serving_slots import Slots, coming_demand, demand_greedy, rule_weights, saved_by_slot
from coinfer.evaluate.serving_worlds import PlainWorlds
from coinfer.evaluate.simulate import run_policy
from coinfer.physics.batching import BatchTimes
from coinfer.physics.loading import Loaded
from coinfer.policies.heuristics.demand import DemandWeights, Memory, Slot, best
from coinfer.policies.heuristics.server_times import ServerState
from coinfer.policies.heuristics.serving import Choice, Task
from coinfer.scenario.compile import open_world
from coinfer.types import OffloadDecision

SLOT_S = 0.2
WEIGHTS = DemandWeights(2.0, gain_s=2.0, loss_s=2.0, spare=0.0)


def task(network: int, servers: int = 1) -> Task:
    """A request of 1 s on its device and 0.1 s on a server."""
    there = tuple(Choice(0, n, 0.1, 0.1, network, network) for n in range(servers))
    return Task((Choice(1, -1, 1.0, 0.0, network, network), *there), float("inf"))


def server(*warm: int) -> ServerState:
    """A server with room for one of two networks, which take 2 s to load."""
    held = {x: Loaded(1.0, 2.0, 2.0) for x in warm}
    return ServerState([BatchTimes()] * 2, [2.0, 2.0], [1.0, 1.0], 1.0, warm=held)


def chosen(servers: list[ServerState], network: int, saved: list[float]) -> int:
    """Return the server that a request goes to if the networks saved so many seconds a second of late."""
    memory = Memory([*saved], [[0.0] * 2 for _ in servers], [])
    slot = Slot(servers, [task(network, len(servers))], memory, WEIGHTS, SLOT_S)
    return best(slot.scored(0)).choice.server


def test_a_network_is_loaded_if_it_is_asked_for_often():
    assert chosen([server()], 0, [0.0, 0.0]) == -1
    assert chosen([server()], 0, [1.0, 0.0]) == 0


def test_a_network_that_saves_more_is_not_evicted():
    assert chosen([server(1)], 0, [1.0, 0.0]) == 0
    assert chosen([server(1)], 0, [1.0, 1.0]) == -1


def test_a_second_server_loads_nothing_that_another_will_have():
    waits = server()
    waits = ServerState(waits.times, waits.load_s, waits.size_bytes, 1.0, loading=(0, 1.9))
    assert chosen([waits, server()], 0, [1.0, 0.0]) == -1
    assert chosen([server(), server()], 0, [1.0, 0.0]) == 0


def test_memory_counts_what_servers_would_save_and_fades():
    memory = Memory([0.0, 0.0], [[0.0] * 2], [])
    for _ in range(200):
        Slot([server()], [task(0)], memory, WEIGHTS, SLOT_S)
    assert memory.saved == pytest.approx([0.8 / SLOT_S, 0.0])
    for _ in range(10):
        Slot([server()], [], memory, WEIGHTS, SLOT_S)
    assert memory.saved[0] == pytest.approx(0.8 / SLOT_S * np.exp(-1))


def test_requests_go_where_those_of_their_network_went():
    weights = DemandWeights(affinity_s=0.01)
    memory = Memory([0.0, 0.0], [[0.0, 5.0], [5.0, 0.0]], [])
    servers = [ServerState([BatchTimes()] * 2, [0.0] * 2, [1.0] * 2, float("inf")) for _ in range(2)]
    slot = Slot(servers, [task(0, 2), task(1, 2)], memory, weights, SLOT_S)
    found = []
    for k in range(2):
        found.append(best(slot.scored(k)))
        slot.place(k, found[-1])
    assert [one.choice.server for one in found] == [1, 0]


@pytest.mark.parametrize("loads", [False, True])
def test_without_prices_it_is_the_plain_rule(loads):
    world = open_servers(np.random.default_rng(3), loads)
    tables = offload.load(world, dtype=torch.float64)
    plain, demand = (rule(tables) for rule in (serving_greedy, demand_greedy(DemandWeights(1.0, 0.0, 0.0))))
    state = offload.reset(tables, torch.arange(3))
    tasks = 0
    for _ in range(5):
        seen = offload.observe(tables, state)
        decisions = [rule(state, seen) for rule in (plain, demand)]
        assert all(torch.equal(*parts) for parts in zip(*decisions, strict=True))
        tasks += int(seen.task_mask.sum())
        state = offload.step(tables, state, decisions[0], rewards.latency).state
    assert tasks > 5


def test_several_weights_play_each_as_alone():
    world = open_servers(np.random.default_rng(4), loads=True)
    weights = DemandWeights(1.0, 0.0, 0.0), DemandWeights(1.0, 8.0, 0.0)
    alone = [run_policy(world, "rule", 2, 1, oracle=demand_greedy(one)).measures["mean_s"] for one in weights]
    both = run_policy(world, "rule", 2, 1, oracle=demand_greedy(*weights)).measures["mean_s"]
    assert both.tolist() == [alone[0][0], alone[1][1]]


def test_what_is_remembered_of_the_past_is_what_was_foreseen_backwards():
    world = open_world("many-models", {"slots": 12, "links.high_bps": 8.0e7, "links.low_bps": 8.0e7}).world
    tables = offload.load(world)
    state = offload.reset(tables, torch.arange(2))
    foreseen = coming_demand(saved_by_slot(tables, state.seed), world.edge.slot_s, 2.0)
    known = PlainWorlds(tables)
    fades = np.exp(-world.edge.slot_s / 2.0)
    for number in range(11):
        memories = [known.no_memory() for _ in state.slot]
        Slots(known, state, offload.observe(tables, state), memories, (DemandWeights(2.0),))
        now = torch.tensor([memory.saved for memory in memories])
        assert torch.allclose(foreseen[number], now + fades * foreseen[number + 1], atol=1e-4)
        nobody = OffloadDecision(torch.ones_like(state.draws.device), torch.full_like(state.draws.device, -1))
        state = offload.step(tables, state, nobody, rewards.latency).state
    assert float(foreseen.sum()) > 0


@pytest.mark.parametrize("name", ["gpu-edge", "many-models"])
def test_who_remembers_what_was_sent_decides_on_old_knowledge_as_on_fresh(name):
    found = list[list[OffloadDecision]]()
    for stale in (0, 2):
        world = open_world(name, {"slots": 8, "staleness_slots": stale}).world
        tables = offload.load(world, dtype=torch.float64)
        decide, state = demand_greedy(rule_weights(world))(tables), offload.reset(tables, torch.arange(2))
        found.append([])
        for _ in range(8):
            found[-1].append(decide(state, offload.observe(tables, state)))
            state = offload.step(tables, state, found[-1][-1], rewards.latency).state
    fresh, old = ([torch.stack(part) for part in zip(*decisions, strict=True)] for decisions in found)
    assert all(torch.equal(*parts) for parts in zip(fresh, old, strict=True))
    assert len(fresh[1].unique()) == 5

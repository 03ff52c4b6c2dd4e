"""The planner on a virtual clock, beside a clairvoyant and beside every fixed choice (benchmarks/replay.py)."""

import sys

import numpy as np
import pytest
from tests.paths import ROOT
from tests.tables import analytic_table

from coinfer.graph.zoo import networks
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.planning.planner import Planner
from coinfer.traces import Trace, load_traces
from coinfer.types import DEVICE

sys.path.insert(0, str(ROOT / "benchmarks"))
import replay

GRAPH = networks.build("alexnet-cifar")
SLOWDOWN, SERVERS = 6.0, (2.5, 1.5, 1.0)


def planner() -> Planner:
    """A network of 50 ms; its tensors have about a megabit at first and become smaller."""
    table = analytic_table(GRAPH, whole_s=0.05)
    large = {name: {width: 15 * bits for width, bits in sizes.items()} for name, sizes in table.payload_bits.items()}
    return Planner(GRAPH, table.model_copy(update={"payload_bits": large}), DeviceConfig(servers=["a:1", "b:1", "c:1"]))


def world(traces: list[Trace], seconds: float) -> replay.World:
    return replay.shaken(replay.world_of(PLANNER, traces, SLOWDOWN, SERVERS, seconds), 0.05, 0)


PLANNER = planner()
STAYS = len(PLANNER.options.bits) - 1


def mean_s(run: replay.Replay) -> float:
    return float(np.mean([request.latency_s for request in run.requests]))


def test_on_the_shipped_traces_the_planner_is_near_the_clairvoyant_and_ahead_of_fixed_choices():
    here = world(list(load_traces().values())[:3], 20.0)
    own = replay.Replay(here, PLANNER, replay.by_planner)
    clairvoyant_s = mean_s(replay.Replay(here, PLANNER, replay.by_clairvoyant, False))
    fixed = [(option, server) for option in range(STAYS) for server in range(3)] + [(STAYS, DEVICE)]
    fixed_s = [mean_s(replay.Replay(here, PLANNER, replay.always(*one), False, False)) for one in fixed]
    assert len(own.requests) == here.requests
    assert clairvoyant_s < mean_s(own) < 1.15 * clairvoyant_s
    assert mean_s(own) < min(fixed_s)
    assert np.median([abs(one.predicted_s / one.latency_s - 1) for one in own.requests]) < 0.12


def test_what_is_known_of_the_parts_is_what_happens():
    """On constant links and without noise, the clairvoyant's latencies are those that it predicts."""
    links = [Trace.constant(rate) for rate in (20e6, 8e6, 3e6)]
    here = replay.world_of(PLANNER, links, SLOWDOWN, SERVERS, 8.0)._replace(burst_bits=0.0)
    found = replay.Replay(here, PLANNER, replay.by_clairvoyant, False).requests
    assert [one.latency_s for one in found] == pytest.approx([one.predicted_s for one in found])
    assert [one.true_s[one.place] for one in found] == pytest.approx([one.true_s.min() for one in found])


@pytest.mark.parametrize("stall_s", [3.0, 12.0])
def test_a_link_that_stalled_is_used_again_soon(stall_s: float):
    """One link, on which nothing passes for a while; the device answers meanwhile."""
    stalled = Trace(np.array([0.0, 10.0, 10.0 + stall_s]), np.array([40e6, 0.0, 40e6]))
    here = world([stalled, Trace.constant(1e4), Trace.constant(1e4)], 10.0 + stall_s + 5.0)
    asked_s, servers = [], []

    def decide(run: replay.Replay, number: int) -> tuple[int, int, float]:
        asked_s.append(run.env.now)
        decision = replay.by_planner(run, number)
        servers.append(decision[1])
        return decision

    replay.Replay(here, PLANNER, decide)
    times, used = np.array(asked_s), np.array(servers)
    assert (used[(times > 6) & (times < 10)] == 0).all()
    assert (used[(times > 11.5) & (times < 10 + stall_s)] == DEVICE).all()
    assert (used[times > 10 + stall_s + 3.0] == 0).all()

"""One predicted latency: what policies and planner expect is what the environment and event-driven twins let happen.

All states here have queues: on the device, on its radio or links, and on the servers.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import simpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.envs.test_offload import without_thresholds
from tests.envs.worlds import random_world

from coinfer.envs import offload, rewards
from coinfer.envs.core import State
from coinfer.envs.reference import offload as reference
from coinfer.options.table import Options
from coinfer.physics.latency import offload_latency_s
from coinfer.policies.candidates import candidates_of, predicted_s
from coinfer.policies.learned.scorer import policy as scorer
from coinfer.policies.learned.scorer import weights as scorer_weights
from coinfer.policies.onnx import ExportedPolicy, load_policy
from coinfer.runtime.device import estimate as est
from coinfer.runtime.device.planning.observation import feasible_latency_s, observe
from coinfer.scenario.world import OffloadWorld
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation

SEEDS = st.integers(0, 2**32 - 1)


def known_world(rng: np.random.Generator) -> OffloadWorld:
    """A busy edge in which everything that a prediction needs is known; links and servers may be dead."""
    one = np.ones(1)
    changes: dict[str, Any] = {"staleness_slots": 0, "rate_error": one, "device_factor": one, "server_factor": one}
    changes["slot_s"] = float(rng.uniform(0.05, 0.2))
    world = without_thresholds(random_world(rng, shared_bandwidth=False, drop_refused=False, **changes))
    return world._replace(edge=world.edge._replace(download_s=np.zeros(world.edge.servers)))


class Moment(NamedTuple):
    """A state with queues in which task `task` alone is to be decided on."""

    world: OffloadWorld
    decided: list[OffloadDecision]
    """In the slots before."""
    tables: offload.Tables
    state: State
    seen: OffloadObservation
    task: int

    def asks(self) -> list[tuple[int, int]]:
        """All options and servers that the task can have, `DEVICE` among them."""
        seen, k = self.seen, self.task
        stays = seen.option_upload_bits[0, k] == 0
        there = [o for o in range(self.world.options) if seen.option_mask[0, k, o]]
        reached = (seen.server_room[0] > 0) & (seen.uplink_bps[0, k] > 0)
        servers = [n for n in range(self.world.edge.servers) if reached[n]]
        return [(o, n) for o in there for n in ([DEVICE] if stays[o] else servers)]


def moment(seed: int) -> Moment:
    """After slots of random decisions."""
    rng = np.random.default_rng(seed)
    world = known_world(rng)
    shape = (int(rng.integers(1, world.edge.slots)), 1, world.edge.tasks)
    option, server = rng.integers(0, world.options, shape), rng.integers(0, world.edge.servers, shape)
    decided = [OffloadDecision(*map(torch.tensor, pair)) for pair in zip(option, server, strict=True)]
    tables = offload.load(world, dtype=torch.float64)
    state = offload.reset(tables, torch.tensor([seed]))
    for decision in decided:
        state = offload.step(tables, state, decision, rewards.latency).state
    task = int(rng.integers(world.edge.tasks))
    only = torch.arange(world.edge.tasks)[None] == task
    state = state._replace(draws=state.draws._replace(task_mask=only))
    return Moment(world, decided, tables, state, offload.observe(tables, state), task)


def as_runtime(seen: OffloadObservation, task: int) -> OffloadObservation:
    """What a device would see of one task: NumPy arrays, no worlds, K = 1."""
    by_server = ("server_backlog_s", "server_room", "observation_age_s")
    parts = {name: field[0].numpy() for name, field in seen._asdict().items()}
    return OffloadObservation(
        **{name: part if name in by_server else part[task : task + 1] for name, part in parts.items()}
    )


def outcome_s(found: Moment, option: int, server: int) -> float:
    """What the environment lets happen."""
    chosen = torch.full((1, found.world.edge.tasks), option), torch.full((1, found.world.edge.tasks), server)
    served = offload.serve(found.tables, found.state, OffloadDecision(*chosen))
    assert not served.refused.any()
    return float(served.outcome.latency_s[0, found.task])


@cache
def shipped() -> ExportedPolicy:
    return load_policy("learned")


def test_there_are_queues():
    """Most of the compared states have work that waits on the task's device, on its radio, and on the servers."""
    seen = [(found.seen, found.task) for found in map(moment, range(60))]
    assert sum(bool(one.device_backlog_s[0, k] > 0) for one, k in seen) > 15
    assert sum(bool((one.uplink_backlog_s[0, k] > one.device_backlog_s[0, k]).any()) for one, k in seen) > 15
    assert sum(bool((one.server_backlog_s[0] > 0).any()) for one, _ in seen) > 15


@settings(max_examples=80, deadline=None)
@given(SEEDS)
def test_planner_policies_and_environment_agree(seed: int):
    found = moment(seed)
    seen, k = found.seen, found.task
    planned_s = feasible_latency_s(as_runtime(seen, k))[0]
    plain_s = offload_latency_s(as_runtime(seen, k))[0]
    tensors_s = offload_latency_s(seen)[0, k]
    candidates_s = predicted_s(candidates_of(seen), seen.server_backlog_s)[0, k].unflatten(-1, plain_s.shape)
    for option, server in found.asks():
        happens_s = pytest.approx(outcome_s(found, option, server), abs=1e-9)
        assert planned_s[option, server] == happens_s
        assert plain_s[option, max(server, 0)] == happens_s
        assert float(tensors_s[option, max(server, 0)]) == happens_s
        assert float(candidates_s[option, max(server, 0)]) == happens_s


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(0, 1000))
def test_event_driven_reference_agrees(seed: int, pick: int):
    found = moment(seed)
    asks = found.asks()
    option, server = asks[pick % len(asks)]
    now = len(found.decided)
    slots = reference.draw_episode(found.world, seed)[: now + 1]
    (own,) = reference.plain_slot(found.state.draws).tasks
    slots[now] = slots[now]._replace(tasks=(own,))

    def decide(slot: int, task: int) -> tuple[int, int]:
        if slot == now:
            return option, server
        return int(found.decided[slot].option[0, task]), int(found.decided[slot].server[0, task])

    happened = reference.run(found.world, slots, decide).outcomes[now][found.task]
    predicted = offload_latency_s(as_runtime(found.seen, found.task))[0, option, max(server, 0)]
    assert happened.latency_s == pytest.approx(predicted, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_scorer_expects_the_same_and_goes_where_it_is_least(seed: int):
    """The scorer sums whole ticks; a task that is alone goes where it is done first, in torch and in ONNX."""
    found = moment(seed)
    seen, k = found.seen, found.task
    weights = scorer_weights.unpack(scorer_weights.greedy_weights()[None])
    made = scorer.prepare(weights, seen)
    servers = found.world.edge.servers
    latency_s = offload_latency_s(seen)[0, k]
    for option, server in found.asks():
        if server == DEVICE:
            continue
        way = torch.zeros(1, scorer_weights.ORDERS, found.world.edge.tasks, dtype=torch.int64)
        way[..., k] = option * servers + server
        judged_s = scorer.slot_cost(seen, made, way)[0, 0] / scorer.TICKS
        assert float(judged_s) == pytest.approx(float(latency_s[option, server]), abs=4 / scorer.TICKS)
    least_s = min(float(latency_s[option, max(server, 0)]) for option, server in found.asks())
    single = OffloadObservation(*(field if field.dtype == torch.bool else field.float() for field in seen))
    exported = shipped()(OffloadObservation(*(field.numpy() for field in single)))
    for decision in (scorer.decide(weights, seen), exported):
        option, server = int(decision.option[0, k]), int(decision.server[0, k])
        assert float(latency_s[option, max(server, 0)]) == pytest.approx(least_s, abs=1e-5)


class Sent(NamedTuple):
    """A request that a device sent to one server."""

    at_s: float
    size_bits: float
    service_s: float


@settings(max_examples=80, deadline=None)
@given(SEEDS)
def test_estimates_of_the_device_predict_what_link_and_server_do(seed: int):
    """Requests under way hold up the link and then the server; the next one is predicted to the end."""
    rng = np.random.default_rng(seed)
    rate_bps, count = float(rng.uniform(1e5, 1e7)), int(rng.integers(1, 6))
    at_s = np.sort(rng.uniform(0, 0.3, count))
    under_way = [Sent(float(t), rate_bps * float(rng.uniform(0.01, 0.3)), float(rng.uniform(0.01, 0.3))) for t in at_s]
    first = est.first_server(rate_bps, 0.0)
    server = est.after_reply(first, 0.0, 9.0, 0.0)
    for one in under_way:
        server = est.after_send(server, one.size_bits, one.service_s, one.at_s)
    now_s, head_s = under_way[-1].at_s, float(rng.uniform(0, 0.5))
    options = Options(
        cuts=(("cut",), ("end",)),
        bits=np.array([32, 32]),
        exit=np.zeros(2, int),
        device_s=np.array([head_s, 1.0]),
        upload_bits=np.array([rate_bps * float(rng.uniform(0.01, 0.3)), 0.0]),
        server_s=np.array([[float(rng.uniform(0.01, 0.3))], [0.0]]),
        accuracy=np.ones(2),
        outputs=(("end",),) * 2,
    )
    seen = observe(options, [server], np.inf, now_s)
    own = Sent(now_s + head_s, float(options.upload_bits[0]), float(options.server_s[0, 0]))
    happens_s = last_end_s([*under_way, own], rate_bps) - now_s
    assert feasible_latency_s(seen)[0, 0, 0] == pytest.approx(happens_s, abs=1e-9)


def last_end_s(requests: list[Sent], rate_bps: float) -> float:
    """When the last request is served by a link and a server that each take one after the other (simpy)."""
    clock = simpy.Environment()
    link, server, ends = simpy.Resource(clock), simpy.Resource(clock), []

    def life(one: Sent):
        yield clock.timeout(one.at_s)
        with link.request() as place:
            yield place
            yield clock.timeout(one.size_bits / rate_bps)
        with server.request() as place:
            yield place
            yield clock.timeout(one.service_s)
        ends.append(clock.now)

    for one in requests:
        clock.process(life(one))
    clock.run()
    return ends[-1]

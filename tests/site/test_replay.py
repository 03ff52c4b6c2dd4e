"""The requests of a site's log come again in the world that is fitted to it, and take as long as they took."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.site.dispatched_site import DispatchedSite
from tests.site.test_operator import coinfer

from coinfer.evaluate.simulate import run_policy
from coinfer.scenario.compile import open_world
from coinfer.site.agent.actors import GREEDY
from coinfer.site.fitting.evidence import Decided, decided
from coinfer.site.fitting.fit import fit
from coinfer.site.fitting.requests import Asked, asked, recorded_requests
from coinfer.site.messages import Batch, Decision
from coinfer.site.store import ExperienceStore
from coinfer.site.trainer.worlds import fitted_world
from coinfer.types import OffloadDecision

Told = list[tuple[str, Decision]]


def log_of(told: Told) -> list[Decided]:
    return decided({"id": 0, "node": node, "epoch": 1, "reward": 0.0, **one.model_dump()} for node, one in told)


def slowest(observation) -> OffloadDecision:
    """An actor that knows no better."""
    return OffloadDecision(np.zeros(1, int), observation.option_server_s[:, 0].argmax(-1))


def own_device(node: str, seconds: float, **fields: object) -> tuple[str, Decision]:
    seen = next(iter(DispatchedSite().play(1)))[1].observation
    values = {"seq": 1, "at_s": 1.7e9, "model": "m", "policy": "planner", "server": -1, "executed_on": "device"}
    return node, Decision(**values, **fields, device_s=seconds, latency_s=seconds, observation=seen)


def test_the_next_requests_take_as_long_as_predicted():
    """By both actors, although the world was fitted to other requests of sequential greedy."""
    site = DispatchedSite(rate_per_s=70.0, rest_s=0.01, age_s=0.0)
    log = log_of([*site.play(400)])
    predicted = []
    for actor, maker in ((None, None), (slowest, lambda seed: _everything_on(2))):
        told = [*(site.play(60, seed=1) if actor is None else site.play(20, slowest, "slowest", seed=2))]
        requests = asked(log_of(told), by_server=True)
        measured_s = np.mean([one.latency_s for one in requests])
        world = fitted_world(log, requests).world
        assert world.edge.recorded.task_mask.sum() == len(told)
        found_s = run_policy(world, "sequential-greedy" if maker is None else "slow", 1, 1, maker).measures["mean_s"]
        assert found_s.mean() == pytest.approx(measured_s, rel=0.1)
        predicted.append(found_s.mean())
    assert predicted[1] > 2 * predicted[0]


def _everything_on(place: int):
    def decide(observation):
        zero = 0 * observation.task_mask.long()
        return OffloadDecision(zero, zero + place)

    return decide


def test_what_servers_do_not_tell_is_the_rest(tmp_path: Path):
    site = DispatchedSite(rest_s=0.03)
    told = [*site.play(300)]
    told += [own_device(f"camera-{n}", seconds) for n, seconds in enumerate((1.5, 1.6, 9.0))]
    found = fit(log_of(told))
    assert found.by_server
    assert found.download_s == pytest.approx(0.03, rel=0.05)
    assert found.compute_error == pytest.approx(0.1, rel=0.15)
    assert found.kinds[0].refused_s == 1.6
    np.testing.assert_allclose(found.kinds[0].server_s[0], site.service_s, rtol=0.02)
    world = fitted_world(log_of(told)).world
    assert world.option_device_s[0, 0, world.local_option[0, 0]] == pytest.approx(1.6)
    assert not world.option_mask[0, 0, world.local_option[0, 0]]
    assert world.edge.download_s == pytest.approx(found.download_s, rel=1e-3)


def decision(node: str, told: Decision, at_s: float, latency_s: float, **fields: object) -> tuple[str, Decision]:
    changes = {"at_s": at_s, "latency_s": latency_s, "seq": told.seq + 1, "group": told.group and told.group + 1}
    return node, told.model_copy(update={**changes, **fields})


def test_a_request_lasts_until_somebody_has_answered():
    """One that was refused twice, the second time for good; one that a second server took; one that nobody answered."""
    base = next(iter(DispatchedSite().play(1)))[1]

    def by(node: str, request: str, at_s: float, latency_s: float, **fields: object) -> tuple[str, Decision]:
        return decision(node, base, 1.7e9 + at_s, latency_s, request=request, **fields)

    told: Told = [
        by("edge-1", "a", 0.0, 0.002, admitted=False),
        by("edge-1", "a", 0.002, 0.003, admitted=False),
        by("edge-2", "b", 0.5, 0.01, admitted=False),
        by("edge-2", "b", 0.51, 0.24),
        by("edge-0", "c", 0.6, 0.01, admitted=False),
        by("edge-0", "d", 0.25, 0.125),
        own_device("camera-1", 2.0, request="a"),
    ]
    told[-1] = (told[-1][0], told[-1][1].model_copy(update={"at_s": 1.7e9 + 1.5}))
    found = asked(log_of(told), by_server=True)
    latency_s = [(one.node, round(one.latency_s, 6)) for one in found]
    assert latency_s == [("edge-1", 1.5), ("edge-0", 0.125), ("edge-2", 0.25)]


def test_requests_that_a_world_does_not_know_are_left_out():
    found = fit(log_of([*DispatchedSite().play(200)]))

    def at(after_s: float, node: str, model: str, cut: str) -> Asked:
        return Asked(found.since_s + after_s, node, model, cut, 0.1)

    requests: Sequence[Asked] = [
        at(1.0, "edge-1", "m", "x"), at(1.5, "edge-2", "m", "rare"),
        at(2.0, "edge-2", "other", "x"), at(2.5, "stranger", "m", "x"),
    ]  # fmt: skip
    assert recorded_requests(found, requests) == [(0.0, 1, 0), (0.5, 2, 0)]


def test_the_command_replays_a_log(tmp_path: Path):
    store, told = ExperienceStore(tmp_path / "store"), [*DispatchedSite().play(200)]
    for node in ("edge-0", "edge-1", "edge-2"):
        own = [one for name, one in told if name == node]
        store.put(node, Batch(epoch=1, records=own)).result(60)
    store.close()
    words = ("--store", str(tmp_path / "store"), "-o", str(tmp_path / "out"), "--replay")
    assert "3 nodes, 3 servers" in coinfer("scenario", "from-site", *words)
    world = open_world(tmp_path / "out" / "site.yaml").world
    assert world.edge.recorded.task_mask.sum() == 200
    assert len(world.edge.recorded.task_mask) == world.edge.slots
    assert world.edge.recorded.task_mask.sum(axis=1).max() == world.edge.tasks
    span_s = told[-1][1].at_s - told[0][1].at_s
    assert world.edge.slots * world.edge.slot_s == pytest.approx(span_s, abs=2 * world.edge.slot_s)
    assert told[0][1].policy == GREEDY

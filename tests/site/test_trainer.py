"""The trainer learns from a site's log, goes on where it was stopped, and its policies decide on servers."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.rl.distributed.test_coordinator import SMALL, LocalWorkerGroup
from tests.site.dispatched_site import DispatchedSite
from tests.site.site_processes import controller_thread
from tests.site.test_operator import coinfer
from tests.site.test_policies import fill, start_updater, to
from tests.site.test_rollout import log_of

from coinfer import checkpoint
from coinfer.errors import UserError
from coinfer.policies.onnx import load_policy
from coinfer.rl.algorithms.cdo_dsac import CdoSettings, features_of
from coinfer.rl.core.envs.placements import UNIT_S
from coinfer.rl.distributed.coordinator import Coordinator
from coinfer.site.agent.padding import padded
from coinfer.site.trainer import learn
from coinfer.site.trainer.experience import Sizes, transitions
from coinfer.site.trainer.learn import Trainer, TrainerSettings
from coinfer.site.trainer.worlds import fitted_world

SIZES = Sizes(4, 2, 5)


def test_steps_of_the_log_are_what_happened():
    log = log_of(DispatchedSite(), 60)
    steps = transitions(log, SIZES, features_of(CdoSettings()))
    assert steps is not None
    nodes = {one.node: [o for o in log if o.node == one.node] for one in log}
    firsts = [one for own in nodes.values() for one in own[:-1]]
    assert steps.action[0, :, 0].tolist() == [one.record.server for one in firsts]
    np.testing.assert_allclose(steps.reward[0, :, 0], [-one.record.latency_s / UNIT_S for one in firsts], rtol=1e-5)
    assert steps.task_mask[0].sum(-1).unique().tolist() == [1]
    assert not steps.reward[0, :, 1:].any()
    assert torch.isfinite(steps.features).all()
    allowed = steps.mask[0, :, 0]
    assert allowed.gather(-1, steps.action[0, :, :1]).all()
    assert allowed.sum(-1).unique().tolist() == [3]  # the three servers, and not the device, which cannot do it
    after = steps.next_features[0, 0], steps.features[0, 1]
    torch.testing.assert_close(*after)
    assert transitions(log_of(DispatchedSite(), 60), Sizes(4, 2, 2), features_of(CdoSettings())) is None


@pytest.mark.slow
def test_it_trains_pushes_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out, site = tmp_path / "out", DispatchedSite(explore=0.3)
    with controller_thread(tmp_path / "store" / "log") as controller:
        updater = start_updater(controller)
        words = ("trainer", "--store", str(tmp_path / "store" / "log"), "--out", str(out), "--rounds", "30",
                 "--updates", "4", "--candidates", "1", "--every-s", "1", *to(controller))  # fmt: skip
        fill(controller, *site.play(300))
        said = coinfer(*words)
        assert "a world with 3 servers, fitted to 300 decisions" in said
        assert "learned from 297 steps of the site" in said
        assert updater.rollout.version(1).scheme == "cdo-dsac"
        fill(controller, *site.play(100, seed=1, first=1000))
    policy = load_policy(out / "policies" / "1.onnx")
    exported = []
    monkeypatch.setattr(learn, "export", lambda path, *_, training, **more: exported.append((path.name, training)))
    said = []
    learned = Trainer(TrainerSettings(tmp_path / "store" / "log", out, rounds=30, updates=4), said.append).round()
    assert said == []  # no other world, and nothing is simulated again
    assert learned.steps > 297
    ((name, record),) = exported
    assert (name, record["updates"]) == ("2.onnx", policy.sidecar["training"]["updates"] + 4)
    decide = padded(policy)
    for one in log_of(site, 20):
        assert 0 <= int(decide(one.observation).server[0]) < 3


def test_the_world_is_fitted_anew_when_the_load_has_changed(tmp_path: Path):
    said: list[str] = []
    trainer = Trainer(TrainerSettings(tmp_path / "log", tmp_path / "out", fitted=400), said.append)
    calm, busy = DispatchedSite(rate_per_s=15.0), DispatchedSite(rate_per_s=45.0)

    def world_of(log) -> tuple[str, float]:
        (tmp_path / "out" / "learned").mkdir(parents=True, exist_ok=True)
        text = trainer._world(log).edge
        return said[-1].partition(": ")[2], text.tasks / text.slot_s

    first = log_of(calm, 400)
    assert world_of(first)[0] == "other servers are there"
    world_of(log_of(calm, 400, seed=1))
    assert len(said) == 1
    assert (tmp_path / "out" / "learned").is_dir()  # nothing begins anew
    said_then, room = world_of(first + log_of(busy, 400, seed=2))  # only the newest count
    assert said_then.startswith("requests per second: 4")
    assert not (tmp_path / "out" / "learned").exists()
    again = Trainer(trainer.settings, said.append)
    assert again._world(log_of(busy, 400, seed=3)).edge.tasks / again._world(first[:5]).edge.slot_s == room
    assert len(said) == 2


def test_agents_play_in_other_processes_with_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learn, "CdoSettings", lambda: SMALL)
    world, played = fitted_world(log_of(DispatchedSite(), 120)).world, []

    @contextmanager
    def make_player(job):
        played.append(job.settings.agents)
        yield Coordinator(LocalWorkerGroup(job), job).play

    def simulated(name: str, *more) -> str:
        trainer = Trainer(TrainerSettings(tmp_path / "log", tmp_path / name, rounds=6), print, *more)
        tensors = trainer._simulated(world).tensors()
        return checkpoint.digest({name: one for name, one in tensors.items() if not name.startswith("sums.")})

    assert simulated("cluster", make_player) == simulated("alone") == simulated("cluster", make_player)
    assert played == [3], "what was simulated before is not simulated again"


def test_a_store_that_is_not_there_is_named_in_one_line(tmp_path: Path):
    with pytest.raises(UserError, match="no such file; a controller keeps its experience there"):
        coinfer("trainer", "--store", str(tmp_path / "none"), "--out", str(tmp_path / "out"), "--candidates", "1")

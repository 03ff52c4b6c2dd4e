"""Pointer policies for servers that batch or load: pushed, pinned, and deciding as in the simulator."""

import asyncio
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.patience import patient_transport, wait_until
from tests.site.site_processes import WAIT_S, controller_thread, member_edge
from tests.site.test_policies import QUICK, start_updater
from tests.site.test_serving_dispatch import Decider, catalogue_of_all, holding, server, task
from tests.site.test_serving_reports import NETWORKS, Network, Now, loaded, served

from coinfer.errors import UserError
from coinfer.policies.heuristics.demand import LOADS, DemandWeights
from coinfer.policies.learned.pointer.export import export_pointer
from coinfer.policies.learned.pointer.features import COLUMNS, NAMES
from coinfer.policies.learned.pointer.net import PointerNet, PointerPolicy
from coinfer.policies.onnx import PolicyError
from coinfer.policies.serving_onnx import load_serving_policy
from coinfer.runtime.piece_memory import PieceMemory
from coinfer.runtime.protocol.messages import InferRequest, from_array
from coinfer.site.agent.actors import GREEDY, Actor, Actors, open_actor
from coinfer.site.agent.dispatch import Candidate
from coinfer.site.agent.edge_agent import AgentSettings
from coinfer.site.agent.serving_plan import Pointer, ServingPlanner, known_state, site_homes
from coinfer.site.messages import Policies, PolicyFile, PolicyShare
from coinfer.site.operator import Operator
from coinfer.site.store import ExperienceStore, read_experience
from coinfer.site.updater.rollout import run
from coinfer.site.updater.updater import NO_JUDGEMENT, Updater
from coinfer.site.updater.versions import PolicyFileError

NET = PointerNet(5, (8,))


def pointer_file(path: Path, weights: DemandWeights = LOADS, feature: str = "", worth: float = 0.0) -> Path:
    """Write a policy that is the rule or, with a feature, likes choices of which this is larger."""
    row = torch.zeros(NET.size)
    if feature:
        layers = NET.actor_layers(row[None])  # views of the parameters
        layers[0][0][0, NAMES.index(feature), 0] = 1.0
        layers[1][0][0, 0, 0] = worth
    policy = PointerPolicy(NET, row, weights, 0.1)
    export_pointer(path, policy, scheme="pointer", scenario="s", scenario_fingerprint="0")
    return path


def servers() -> list[Candidate]:
    return [server("own", holding("b")), server("other", holding("a"))]


def placed(actor: Actor, networks: str, candidates: Sequence[Candidate] = ()) -> list[int]:
    planner = ServingPlanner()
    return planner.plan(
        [task(one) for one in networks], candidates or servers(), 0.0, actor.pointer
    ).decision.server.tolist()


def test_untrained_it_is_the_rule_and_trained_it_decides_by_its_features(tmp_path: Path):
    rule, loading = (
        open_actor(pointer_file(tmp_path / f"p{feature}.onnx", LOADS, feature, 50.0), "p") for feature in ("", "loads")
    )
    assert placed(rule, "abcab") == placed(Actor(None, "rule"), "abcab")
    assert placed(rule, "ab") == [1, 0]
    assert placed(loading, "ab") == [0, 1]  # it wants networks loaded


def test_it_is_asked_as_the_simulator_asks_it(tmp_path: Path):
    """The file's network gets the numbers of the choices of one task after the other."""
    seen: list[np.ndarray] = []
    policy = load_serving_policy(pointer_file(tmp_path / "p.onnx"))

    def scores(rows: np.ndarray) -> np.ndarray:
        seen.append(rows)
        return policy(rows)

    ServingPlanner().plan([task("a"), task("c")], servers(), 0.0, Pointer(scores, policy.weights, policy.scale_s))
    assert [rows.shape for rows in seen] == [(1, 2, COLUMNS)] * 2
    column = 1 + NAMES.index("loads")
    assert seen[0][0, :, column].tolist() == [1.0, 0.0]
    assert seen[1][0, :, column].tolist() == [1.0, 1.0]


def test_homes_are_the_same_for_all_deciders(tmp_path: Path):
    at_home = open_actor(pointer_file(tmp_path / "home.onnx", replace(LOADS, loads_at_home=True)), "p")
    nobody = [server(name, holding("")) for name in ("a:1", "b:1", "c:1")]
    catalogue = catalogue_of_all()
    states = [known_state(one, catalogue) for one in nobody]
    own = site_homes(nobody, states, catalogue)
    others = site_homes(nobody[::-1], states[::-1], catalogue)
    assert [nobody[n].address for n in own] == [nobody[::-1][n].address for n in others]
    assert sorted(own) == [0, 1, 2]
    found = placed(at_home, "abc", nobody)
    assert found == own
    assert [nobody[::-1][n].address for n in placed(at_home, "abc", nobody[::-1])] == [nobody[n].address for n in own]


def as_message(path: Path, version: int = 1) -> PolicyFile:
    onnx, sidecar = (b64encode(one.read_bytes()).decode() for one in (path, path.with_suffix(".json")))
    return PolicyFile(version=version, fingerprint=str(version), onnx=onnx, sidecar=sidecar)


def test_a_server_takes_a_pushed_file_and_refuses_one_that_a_site_cannot_follow(tmp_path: Path):
    actors = Actors(tmp_path / "policies")
    actors.on_file(as_message(pointer_file(tmp_path / "p.onnx")))
    actors.on_policies(Policies(shares=(PolicyShare(version=1, fingerprint="1", share=1.0),)))
    assert (actors.problem, actors.versions) == ("", (1,))
    assert actors.choose().pointer is not None
    actors.on_file(as_message(pointer_file(tmp_path / "h.onnx", replace(LOADS, at_home=True)), 2))
    assert "made for networks with one server each" in actors.problem
    assert actors.choose().name == "version 1"
    broken = pointer_file(tmp_path / "b.onnx", LOADS, "device", np.nan)
    with pytest.raises(PolicyError, match="its scores are no numbers"):
        open_actor(broken, "p")


def test_a_pointer_policy_decides_and_sequential_greedy_where_servers_tell_nothing(tmp_path: Path):
    actor = open_actor(pointer_file(tmp_path / "p.onnx"), "version 3")
    decider = Decider(actor)
    assert decider.ask(2) == ["other", "other"]
    assert {one.policy for one in decider.kept} == {"version 3"}
    assert decider.dispatcher.by_actor == 2
    silent = Decider(actor, [one._replace(told=None) for one in servers()])
    silent.ask()
    assert [one.policy for one in silent.kept] == [GREEDY]

    def raising(rows: np.ndarray) -> np.ndarray:
        raise RuntimeError("broken")

    broken = Decider(actor._replace(pointer=Pointer(raising, LOADS, 0.1)))
    broken.ask()
    assert [one.policy for one in broken.kept] == [GREEDY]
    assert broken.dispatcher.actor_failures == 1


# --- the site


def test_it_is_neither_judged_nor_refused_until_an_operator_pins_it(tmp_path: Path):
    path = pointer_file(tmp_path / "p.onnx")
    files = path.read_bytes(), path.with_suffix(".json").read_bytes()
    ExperienceStore(tmp_path / "log").close()
    updater = Updater(tmp_path / "log", tmp_path / "policies", QUICK, dict, lambda text: None)
    assert updater.push(*files, "alice").scheme == "pointer"

    async def step() -> None:
        await updater.step()

    asyncio.run(step())
    version = updater.rollout.version(1)
    assert (version.standing, version.reason) == ("waiting", NO_JUDGEMENT)
    with pytest.raises(UserError, match="can neither judge nor train"):
        asyncio.run(updater.judge_files(*files))
    updater.pin(1, "alice")
    assert updater.shares("edge-1")[1] == 1 - QUICK.fallback_share
    asyncio.run(step())
    assert updater.rollout.version(1).standing == "running"
    spoiled = path.with_suffix(".json").read_bytes().replace(b'"queue"', b'"other"')
    with pytest.raises(PolicyFileError, match="made for other features"):
        updater.push(files[0], spoiled, "alice")


def test_other_candidates_are_judged_beside_sequential_greedy_while_it_runs(tmp_path: Path, monkeypatch):
    path = pointer_file(tmp_path / "p.onnx")
    ExperienceStore(tmp_path / "log").close()
    updater = Updater(tmp_path / "log", tmp_path / "policies", QUICK, dict, lambda text: None)
    updater.push(path.read_bytes(), path.with_suffix(".json").read_bytes(), "alice")
    updater.folder.save(run(updater.rollout, 1, "a test", 0.0, 0))
    jobs: list[bytes] = []

    class Process:
        returncode = 0

        async def communicate(self, job: bytes) -> tuple[bytes, bytes]:
            jobs.append(job)
            return b'{"passed": true, "reason": "fine"}', b""

    async def start(*_, **__) -> Process:
        return Process()

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    assert asyncio.run(updater.judge(path)).passed
    assert b'"running": ""' in jobs[0]


def test_a_pushed_and_pinned_pointer_policy_decides_on_servers(tmp_path: Path):
    transport = patient_transport()
    path = pointer_file(tmp_path / "p.onnx", LOADS, "loads", 50.0)  # where the rule would not go

    def member(name: str, warm: str):
        now = Now()
        memory: PieceMemory = PieceMemory(2000, 9, now)
        networks = {one: Network(one, memory) for one in NETWORKS}
        for one in networks.values():
            one.computes.set()
            one.opens.set()
        for one in sorted(NETWORKS, key=lambda one: one == warm):
            loaded(memory, networks[one], now, 5.0)
        models = [served(one, network) for one, network in networks.items()]
        return member_edge(
            AgentSettings(name, tmp_path / name, controller.address, late_s=WAIT_S), models=models, memory=memory
        )

    with (
        controller_thread(tmp_path / "store") as controller,
        member("edge-1", "a") as first,
        member("edge-2", "b") as second,
        Operator(controller.address, None, False) as operator,
    ):
        settings = QUICK.model_copy(update={"fallback_share": 0.0, "explore": 0.0})
        start_updater(controller, settings)
        version = operator.push(path)["version"]
        operator.policy("ChangePolicy", {"do": "pin", "version": version})
        wait_until(lambda: first.agent.actors.versions == (version,), WAIT_S, "it decides")
        wait_until(
            lambda: (one := first.agent.servers.get("edge-2")) and one.serving and one.profile, WAIT_S, "it is known"
        )
        request = InferRequest("a", (from_array("x", np.zeros(1, np.float32)),), ("y",), dispatch=True)
        reply = transport.send(first.address, request).result(WAIT_S)
        assert [one.node for one in reply.executed] == [second.address]
        wait_until(lambda: first.agent._spool.held == 0, WAIT_S, "its decision was delivered")
    transport.close()
    assert {one["policy"] for one in read_experience(tmp_path / "store")} == {f"version {version}"}


def test_the_weights_of_a_file_are_those_of_the_rule(tmp_path: Path):
    assert asdict(load_serving_policy(pointer_file(tmp_path / "p.onnx")).weights) == asdict(LOADS)

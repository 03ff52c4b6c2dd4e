"""Policies on real controllers and servers: rolled out, taken back, refused; who lies wins nothing."""

import asyncio
import base64
import json
import time
from pathlib import Path

import numpy as np
import pytest
from tests.patience import wait_until
from tests.runtime.edge.edge_process import Sleeper
from tests.site.dispatched_site import DispatchedSite
from tests.site.site_files import make_site
from tests.site.site_processes import WAIT_S, MemberEdge, controller_thread
from tests.site.test_operator import coinfer
from tests.site.test_rollout import slowest

from coinfer.errors import UserError
from coinfer.policies.onnx import load_policy
from coinfer.resources import POLICIES
from coinfer.site.agent import actors as actors_module
from coinfer.site.agent.actors import KEPT, Actor, Actors
from coinfer.site.agent.edge_agent import AgentSettings
from coinfer.site.certificates.identity import Identity
from coinfer.site.controller.process import make_updater
from coinfer.site.messages import (
    Batch,
    Decision,
    Hello,
    MessageError,
    Policies,
    PolicyFile,
    PolicyShare,
    Report,
    from_node,
    to_bytes,
)
from coinfer.site.operator import Operator, OperatorError
from coinfer.site.store import ExperienceStore
from coinfer.site.updater import updater as updater_module
from coinfer.site.updater.rollout import Verdict
from coinfer.site.updater.settings import load_settings
from coinfer.site.updater.updater import Updater
from coinfer.site.updater.versions import FALLBACK
from coinfer.types import OffloadDecision

JUDGE_S = 900.0
"""PyTorch is imported and worlds are played in a process of its own, on a machine that may be very busy."""
QUICK = load_settings().model_copy(
    update={"worlds_seeds": 3, "effective_decisions": 100, "shadow_decisions": 20, "canary_decisions": 10}
    | {"judge_limit_s": JUDGE_S}
)


def start_updater(controller, settings=QUICK, judge=None):
    """Gives a controller an updater that takes its steps whenever a test asks for one."""
    updater = make_updater(controller.service, settings)
    if judge is not None:

        async def found(path, kind="judge"):
            return judge(path, kind)

        updater.judge = found
    controller.service.updater = updater
    return updater


def step_until(controller, updater, standing: str, number: int = 1) -> None:
    def there() -> bool:
        controller.run(updater.step())
        return updater.rollout.version(number).standing == standing

    wait_until(there, JUDGE_S, f"version {number} is {standing}; {updater.rollout}")


def server(tmp_path: Path, controller, name: str) -> MemberEdge:
    return MemberEdge(AgentSettings(name, tmp_path / name, controller.address, late_s=60.0), [Sleeper().served()])


def fill(controller, *nodes: tuple[str, Decision]) -> None:
    by_node: dict[str, list[Decision]] = {}
    for node, decision in nodes:
        by_node.setdefault(node, []).append(decision)
    for node, own in by_node.items():
        for first in range(0, len(own), 200):
            batch = Batch(epoch=1, records=own[first : first + 200])
            controller.store.put(node, batch).result(WAIT_S)


def policy_files() -> tuple[bytes, bytes]:
    path = load_policy("learned").path
    return path.read_bytes(), path.with_suffix(".json").read_bytes()


def test_a_policy_is_rolled_out_step_by_step_and_taken_back(tmp_path: Path):
    with controller_thread(tmp_path / "store" / "log") as controller:
        updater = start_updater(controller, judge=lambda path, kind: Verdict(True, f"{kind}: fine"))
        edges = [server(tmp_path, controller, f"edge-{n}") for n in range(2)]
        try:
            wait_until(lambda: controller.there() == {"edge-0", "edge-1"}, WAIT_S, "both are there")
            with Operator(controller.address, None, False) as operator:
                assert "waiting" in operator.push(Path("learned"))["said"]
                step_until(controller, updater, "canary")
                node = updater.rollout.canary
                canary, other = sorted(edges, key=lambda edge: edge.agent.hello().name != node)
                wait_until(lambda: canary.agent.actors.versions == (1,), WAIT_S, "the canary has it")
                assert other.agent.actors.versions == ()
                told = []
                for n in range(80):  # what requests took that reached the canary, in a device's words
                    one = {"model": "m", "policy": "planner", "dispatched": True, "request": f"r{n}"}
                    where = {"server": 0, "executed_on": canary.address}
                    told.append(("camera", Decision(seq=n, at_s=1e9 + n, latency_s=0.1 + n % 4 / 100, **one, **where)))
                fill(controller, *told)
                step_until(controller, updater, "running")
                wait_until(lambda: other.agent.actors.versions == (1,), WAIT_S, "all have it")
                wait_until(lambda: _policies(operator) == {"edge-0": [1], "edge-1": [1]}, WAIT_S, "the page knows")
                assert "version 1 rolled back to version 0" in coinfer("policy", "rollback", *to(controller))
            wait_until(lambda: not any(e.agent.actors.versions for e in edges), WAIT_S, "nobody has it")
            assert "rolled back to version 0: by somebody" in coinfer("policy", "show", "1", *to(controller))
            with pytest.raises(UserError, match="pin it if you know better"):
                coinfer("policy", "push", "learned", *to(controller))
            assert "version 1 on all servers" in coinfer("policy", "pin", "1", *to(controller))
            wait_until(lambda: all(e.agent.actors.versions == (1,) for e in edges), WAIT_S, "it is pinned")
            assert "running: version 1, pinned" in coinfer("policy", "list", *to(controller))
            coinfer("policy", "unpin", *to(controller))
            with pytest.raises(UserError, match="no policy version 7; there are: 1"):
                coinfer("policy", "pin", "7", *to(controller))
            again = make_updater(controller.service, QUICK)
            assert (again.rollout.running, again.rollout.pinned) == (1, False)
        finally:
            for edge in edges:
                edge.stop()


def to(controller) -> tuple[str, str]:
    return ("--controller", controller.address)


def _policies(operator) -> dict[str, list[int]]:
    return {node["name"]: node["policies"] for node in operator.state()["nodes"]}


def test_a_server_refuses_a_broken_file_in_one_line_and_goes_on(tmp_path: Path, caplog):
    with controller_thread(tmp_path / "store" / "log") as controller:
        updater = start_updater(controller, judge=lambda path, kind: Verdict(True, "fine"))
        edge = server(tmp_path, controller, "edge-0")
        try:
            wait_until(lambda: controller.there() == {"edge-0"}, WAIT_S, "it is there")
            onnx, sidecar = policy_files()
            controller.run(call(updater.push, onnx, sidecar, "me"))
            controller.run(call(updater.pin, 1, "me"))
            wait_until(lambda: edge.agent.actors.versions == (1,), WAIT_S, "it decides")
            controller.run(call(updater.unpin, "me"))
            controller.run(call(updater.push, onnx, sidecar + b" ", "me"))
            (tmp_path / "store" / "policies" / "2.onnx").write_bytes(onnx[:2000])  # the disk has lost the rest
            step_until(controller, updater, "refused", 2)
            assert "edge-0: version 2: " in updater.rollout.version(2).reason
            wait_until(lambda: edge.agent.actors.versions == (1,), WAIT_S, "the old one goes on")
        finally:
            edge.stop()
    assert caplog.text.count("a policy is refused, and what decided goes on: version 2") == 1


def test_a_policy_that_decided_before_is_not_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened, decides = list[str](), lambda observation: OffloadDecision(np.zeros(1, int), np.zeros(1, int))

    def open_actor(path: Path, name: str) -> Actor:
        opened.append(Path(path).name)
        return Actor(decides, name)

    monkeypatch.setattr(actors_module, "open_actor", open_actor)
    actors, content = Actors(tmp_path), base64.b64encode(b"-").decode()

    def pin(version: int, mark: str) -> str:
        actors.on_message(PolicyFile(version=version, fingerprint=mark, onnx=content, sidecar=content))
        actors.on_message(Policies(shares=(PolicyShare(version=version, fingerprint=mark, share=1.0),)))
        return actors.choose().name

    assert [pin(1, "a"), pin(2, "b"), pin(1, "a"), pin(7, "b")] == [f"version {n}" for n in (1, 2, 1, 7)]
    assert opened == ["1.onnx", "2.onnx"]
    for version in range(10, 10 + KEPT):
        pin(version, str(version))
    del opened[:]
    pin(7, "b")
    pin(1, "a")
    assert opened == ["1.onnx"], "only the last ones stay open"


def test_what_decided_until_now_stays_open_however_many_candidates_failed(tmp_path: Path, monkeypatch):
    opened = list[str]()
    monkeypatch.setattr(
        actors_module, "open_actor", lambda path, name: opened.append(Path(path).name) or Actor(None, name)
    )
    actors, content = Actors(tmp_path), base64.b64encode(b"-").decode()

    def send(version: int) -> None:
        actors.on_message(PolicyFile(version=version, fingerprint=str(version), onnx=content, sidecar=content))

    def pin(version: int) -> None:
        send(version)
        actors.on_message(Policies(shares=(PolicyShare(version=version, fingerprint=str(version), share=1.0),)))

    pin(1)
    for candidate in range(2, 3 + KEPT):
        share = PolicyShare(version=candidate, fingerprint=str(candidate), share=0.1)
        send(candidate)
        actors.on_message(Policies(shares=(PolicyShare(version=1, fingerprint="1", share=0.9), share)))
    pin(100)
    pin(1)
    assert opened.count("1.onnx") == 1, opened


class VirtualTime:
    """Both clocks of the updater."""

    def __init__(self):
        self.now_s = 1e9
        self.time = self.monotonic = lambda: self.now_s


def test_a_canary_that_only_praises_itself_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = VirtualTime()
    monkeypatch.setattr(updater_module, "time", clock)
    store = ExperienceStore(tmp_path / "log")
    updater = Updater(store.path, tmp_path / "policies", QUICK, lambda: {"edge-0": "e:1"}, lambda text: None)

    async def judge(path, kind="judge"):
        return Verdict(True, f"{kind}: fine")

    async def steps(count: int) -> str:
        for _ in range(count):
            await updater.step()
            clock.now_s += 1.0
        return updater.rollout.version(1).standing

    updater.judge = judge
    updater.push(*policy_files(), "me")
    assert asyncio.run(steps(9)) == "canary"  # of its own accord: judged, then a shadow
    for n in range(40):
        praise = {"policy": ("version 1", "sequential greedy")[n % 2], "group": n + 1, "latency_s": (1e-6, 9.0)[n % 2]}
        one = Decision(seq=n, at_s=1e9, model="m", server=0, executed_on="e:1", **praise)
        store.put("edge-0", Batch(epoch=1, records=[one]))
    store.put("edge-1", Batch(epoch=1, records=[one])).result(WAIT_S)
    assert asyncio.run(steps(3)) == "canary"
    clock.now_s += QUICK.canary_limit_s
    assert asyncio.run(steps(1)) == "refused"
    assert "0 and 0 decisions that devices have reported" in updater.rollout.version(1).reason
    store.close()


async def call(function, *words):
    return function(*words)


def test_only_operators_change_what_decides(tmp_path: Path):
    site = make_site(tmp_path)
    with controller_thread(tmp_path / "store" / "log", Identity(site.home / "controller")) as controller:
        start_updater(controller)
        with Operator(controller.address, site.home, False) as operator:
            assert operator.policy("Policy", {"do": "list"})["versions"] == []
            assert "pushed by operator operator" in _push_and_tell(operator)
        with Operator(controller.address, site.home, False, "controller") as trainer:
            assert trainer.policy("Policy", {"do": "list"})["candidate"] == 1
            with pytest.raises(OperatorError, match="PERMISSION_DENIED"):
                trainer.policy("ChangePolicy", {"do": "pin", "version": 1})
        for role in ("edge", "device"):
            with Operator(controller.address, site.home / role, False, role) as node:
                for call, what in (("Policy", "list"), ("PushPolicy", "push"), ("ChangePolicy", "rollback")):
                    with pytest.raises(OperatorError, match="PERMISSION_DENIED"):
                        node.policy(call, {"do": what})


def _push_and_tell(operator: Operator) -> str:
    operator.push(Path("learned"))
    return operator.policy("Policy", {"do": "list"})["history"][-1]["text"]


# --- who lies


def claims(returns: float) -> bytes:
    """The side-car of a policy whose maker says how good it is."""
    sidecar = json.loads((POLICIES / "learned.json").read_text())
    return json.dumps(sidecar | {"training": {"reward": returns, "mean_s": -returns}}).encode()


def always_slowest() -> bytes:
    """An actor that gives every task to the server that takes longest for it."""
    from onnx import TensorProto, helper

    seconds = helper.make_tensor_value_info("option_server_s", TensorProto.FLOAT, ["B", "K", "O", "N"])
    outputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "K"]) for name in ("option", "server")]
    index = helper.make_node("Constant", [], ["zero"], value=helper.make_tensor("z", TensorProto.INT64, [], [0]))
    nodes = [
        index,
        helper.make_node("Gather", ["option_server_s", "zero"], ["first"], axis=2),
        helper.make_node("ArgMax", ["first"], ["server"], axis=2, keepdims=0),
        helper.make_node("Sub", ["server", "server"], ["option"]),
    ]
    graph = helper.make_graph(nodes, "slowest", [seconds], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def sidecar_of_slowest() -> bytes:
    sidecar = json.loads(claims(1e9))
    return json.dumps(sidecar | {"fields": ["option_server_s"], "scheme": "liar"}).encode()


def test_an_agent_that_lies_wins_nothing(tmp_path: Path):
    """Five agents; one tells that the worst policy is the best, which it pushes with returns that it made up."""
    site = DispatchedSite(service_s=(0.02, 0.03, 0.04, 0.06, 0.1), rate_per_s=50.0, explore=0.5)
    with controller_thread(tmp_path / "store" / "log") as controller:
        updater = start_updater(controller)
        honest = [one for one in site.play(800) if one[0] != "edge-0"]
        own = [one for node, one in site.play(800, actor=slowest, seed=1) if node == "edge-0"]
        invented = [one.model_copy(update={"latency_s": 1e-6, "server_s": 1e-6}) for one in own]
        again = [one for one in own if one.latency_s < 0.11] * 5  # what once went well, under new numbers
        lies = [("edge-0", one.model_copy(update={"seq": n})) for n, one in enumerate([*invented, *again])]
        fill(controller, *honest, *lies)
        kept = controller.store.stored
        fill(controller, *lies)  # the same numbers again
        assert controller.store.stored == kept == len(honest) + len(lies)
        controller.run(call(updater.push, always_slowest(), sidecar_of_slowest(), "edge-0"))
        step_until(controller, updater, "refused")
        assert "worlds: +" in updater.rollout.version(1).reason
        assert updater.rollout.running == FALLBACK
        assert not any("all servers" in one.text or "canary" in one.text for one in updater.rollout.history)


def test_returns_that_are_no_numbers_are_not_even_read():
    good = to_bytes(Report(batch=Batch(epoch=1, records=[next(DispatchedSite().play(1))[1]])))
    assert from_node(good)
    latency = json.loads(good)["batch"]["records"][0]["latency_s"]
    for word in ("NaN", "Infinity", "-1", "1e999"):
        with pytest.raises(MessageError, match="latency_s"):
            from_node(good.replace(b'"latency_s":%s' % str(latency).encode(), b'"latency_s":%s' % word.encode()))
    assert Hello(name="edge-0", role="edge", epoch=round(time.time()))

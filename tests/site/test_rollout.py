"""Candidates go step by step, and what is worse goes back: the updater's parts without a controller."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from tests.site.dispatched_site import DispatchedSite

from coinfer.errors import UserError
from coinfer.policies.onnx import load_policy
from coinfer.resources import POLICIES, ROLLOUT
from coinfer.site.agent.dispatch import explored, sequential_greedy
from coinfer.site.agent.padding import padded
from coinfer.site.draw import drawn, place
from coinfer.site.fitting.evidence import Decided, decided
from coinfer.site.updater import live, rollout
from coinfer.site.updater.live import Measured, judge_canary, judge_running, policy_name
from coinfer.site.updater.off_policy import judge_by_log
from coinfer.site.updater.rollout import Verdict
from coinfer.site.updater.settings import load_settings
from coinfer.site.updater.shadow import judge_shadow
from coinfer.site.updater.statistics import block_mean, student
from coinfer.site.updater.versions import FALLBACK, PolicyFolder, Rollout, Version
from coinfer.types import OffloadDecision

SETTINGS = load_settings()
FINE, BAD, UNSURE = Verdict(True, "fine"), Verdict(False, "bad"), Verdict(None, "too few")


def versions(*numbers: int) -> Rollout:
    made = tuple(Version(number=n, fingerprint=str(n), scheme="s", by="me", at_s=0.0) for n in numbers)
    return Rollout(versions=made)


def test_a_candidate_goes_through_every_stage_and_then_runs():
    state = rollout.offer(versions(1), 1, 0.0)
    seen = []
    for verdict in (UNSURE, FINE, UNSURE, FINE, UNSURE, FINE):
        state = rollout.advance(state, verdict, 1.0, 10, "edge-2")
        seen.append(state.version(1).standing)
    assert seen == ["waiting", "shadow", "shadow", "canary", "canary", "running"]
    assert (state.running, state.previous, state.candidate, state.canary) == (1, FALLBACK, None, "")


@pytest.mark.parametrize("passed", [0, 1, 2])
def test_a_bad_verdict_refuses_it_at_any_stage(passed: int):
    state = rollout.offer(versions(1), 1, 0.0)
    for verdict in [FINE] * passed + [BAD]:
        state = rollout.advance(state, verdict, 1.0, 10, "edge-2")
    assert (state.running, state.candidate, state.version(1).standing) == (FALLBACK, None, "refused")
    assert "version 1 refused: bad" in state.history[-1].text


def test_who_decides_where():
    state = rollout.run(versions(1, 2), 1, "", 0.0, 0)
    assert rollout.shares(versions(1), "a", SETTINGS) == {FALLBACK: 1.0}
    assert rollout.shares(state, "a", SETTINGS) == {1: 0.95, FALLBACK: 0.05}
    state = rollout.offer(state, 2, 0.0).model_copy(update={"canary": "a"})
    assert rollout.shares(state, "a", SETTINGS) == pytest.approx({1: 0.475, FALLBACK: 0.025, 2: 0.5})
    assert rollout.shares(state, "b", SETTINGS) == {1: 0.95, FALLBACK: 0.05}


def test_what_is_worse_for_long_enough_goes_back():
    state = rollout.run(rollout.run(versions(1, 2), 1, "", 0.0, 0), 2, "", 0.0, 0)
    state = rollout.watch(state, BAD, 100.0, SETTINGS)
    state = rollout.watch(state, UNSURE, 110.0, SETTINGS)
    assert rollout.watch(state, FINE, 120.0, SETTINGS).worse_s is None  # a break begins it anew
    assert state.running == 2
    state = rollout.watch(state, BAD, 100.0 + SETTINGS.worse_s, SETTINGS)
    assert (state.running, state.version(2).standing, state.version(1).standing) == (1, "rolled back", "running")
    state = rollout.roll_back(state, "by me", 200.0)
    assert (state.running, state.version(1).standing) == (FALLBACK, "rolled back")


def test_versions_survive_a_restart_and_a_broken_file_is_none(tmp_path: Path):
    onnx, sidecar = ((POLICIES / f"learned{end}").read_bytes() for end in (".onnx", ".json"))
    folder = PolicyFolder(tmp_path)
    first = folder.add(onnx, sidecar, "me", 5)
    assert folder.add(onnx, sidecar, "you", 5) == first
    for bad in ((onnx[:1000], sidecar), (onnx, b"{}"), (onnx, b"\xff"), (b"", sidecar), (bytes(600_000), sidecar)):
        with pytest.raises(UserError) as caught:
            folder.add(*bad, "me", 5)
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.json", "1.onnx", "state.json"]
    folder.save(rollout.run(folder.rollout, 1, "", 0.0, 0))
    for number in range(2, 9):
        folder.add(onnx, sidecar + b" " * number, "me", 3)
    again = PolicyFolder(tmp_path).rollout
    assert [one.number for one in again.versions] == [1, 7, 8]  # what runs stays
    (tmp_path / "state.json").write_text('{"running": "x"}')
    with pytest.raises(UserError, match=r"state\.json: not the state of a roll-out"):
        PolicyFolder(tmp_path)


def test_settings_have_reasons_and_bad_ones_are_named(tmp_path: Path):
    lines = ROLLOUT.read_text().splitlines()
    keys = [line.partition(":")[0] for line in lines if line and not line.startswith("#")]
    assert set(keys) == set(type(SETTINGS).model_fields)
    mine = tmp_path / "mine.yaml"
    mine.write_text("canary_share: 0.2\n")
    assert load_settings(mine).canary_share == 0.2
    for text, words in {
        "canary_share: 2": "canary_share",
        "x: 1": "x: Extra",
        "- 1": "expected KEY",
        "{": "cannot",
    }.items():
        mine.write_text(text)
        with pytest.raises(UserError, match=words):
            load_settings(mine)


@pytest.mark.parametrize("degrees", [4, 9, 19, 100])
def test_intervals_are_those_of_scipy(degrees: int):
    assert student(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=0.01)
    values = np.random.default_rng(degrees).exponential(size=(400, 60))
    inside = [abs(one.mean - 1) <= one.half for one in map(block_mean, values)]
    assert 0.9 < np.mean(inside) < 0.99


# --- what is measured on servers


def measured(node: str, version: int, count: int, mean_s: float, seed: int = 0) -> list[Measured]:
    drawn = np.random.default_rng(seed).exponential(mean_s, count)
    return [Measured(n, node, policy_name(version), 0.0, float(latency_s)) for n, latency_s in enumerate(drawn)]


def by_devices(told: list[Measured]) -> list[Measured]:
    return [one._replace(reached=f"{one.node}:1") for one in told]


def test_a_canary_is_compared_with_what_runs_beside_it():
    fine = [*measured("a", 2, 600, 0.1), *measured("a", 1, 600, 0.1, 1), *measured("b", 1, 900, 9.0)]
    assert judge_canary(by_devices(fine), "a", 2, 1, SETTINGS).passed
    slow = [*measured("a", 2, 600, 0.2), *measured("a", 1, 600, 0.1, 1)]
    assert judge_canary(by_devices(slow), "a", 2, 1, SETTINGS).passed is False
    assert judge_canary(by_devices(fine)[:700], "a", 2, 1, SETTINGS).passed is None
    late = [*measured("a", 2, 100, 0.1), *measured("a", 1, 900, 0.1, 1)]
    verdict = judge_canary([*late, *by_devices(fine)], "a", 2, 1, SETTINGS)
    assert verdict.passed is False
    assert "late or wrong" in verdict.reason
    assert judge_canary(fine, "a", 2, 1, SETTINGS).passed is None  # its own word
    assert judge_canary(fine, "a", 2, 1, SETTINGS.model_copy(update={"canary_own_word": True})).passed


def told_by_devices(count: int, candidate_s: float, running_s: float, shares: dict[int, float]) -> list[Measured]:
    """What devices tell of requests that reached server `a`, which was as quick as the drawn version made it."""
    rng, found = np.random.default_rng(0), []
    for n in range(count):
        request = f"{int(rng.integers(1 << 62)):x}"
        mean_s = candidate_s if drawn(shares, place("salt", request)) == 2 else running_s
        found.append(Measured(n, f"camera-{n % 5}", "planner", 0.0, float(rng.exponential(mean_s)), "a:1", request))
    return found


def test_a_canary_that_lies_does_not_pass_its_own_test():
    shares = {1: 0.475, FALLBACK: 0.025, 2: 0.5}
    praise = [*measured("a", 2, 900, 1e-6), *measured("a", 1, 900, 9.0, 1)]  # what it says of itself

    def verdict(candidate_s: float, running_s: float) -> Verdict:
        told = told_by_devices(2000, candidate_s, running_s, shares)
        again = live.drawn_again(told, "a", "a:1", shares, "salt")
        counts = {version: sum(one.policy == policy_name(version) for one in again) / 2000 for version in shares}
        assert counts == pytest.approx(shares, abs=0.03)
        assert live.drawn_again(told, "b", "b:1", shares, "salt") == []
        return judge_canary([*praise, *told, *again], "a", 2, 1, SETTINGS)

    assert verdict(0.2, 0.1).passed is False
    assert verdict(0.1, 0.1).passed
    other = live.drawn_again(told_by_devices(2000, 0.2, 0.1, shares), "a", "a:1", shares, "another salt")
    assert judge_canary(other, "a", 2, 1, SETTINGS).passed  # who does not know the salt cannot tell the two apart


def test_one_lying_server_neither_saves_nor_ends_what_runs():
    def site(factor: float, lie: float) -> list[Measured]:
        told = [one for n in range(5) for one in measured(f"e{n}", 1, 300, 0.1 * (lie if n == 0 else factor), n)]
        return told + [one for n in range(5) for one in measured(f"e{n}", FALLBACK, 300, 0.1, 10 + n)]

    assert judge_running(site(1.0, 1e6), 1, SETTINGS).passed
    assert judge_running(site(3.0, 1e-6), 1, SETTINGS).passed is False
    assert judge_running(measured("a", 1, 300, 0.1), 1, SETTINGS).passed is None


def test_the_canary_is_a_server_that_has_something_to_decide():
    assert live.canary_node({"a": 100, "b": 0, "c": 7}) == "c"
    assert live.canary_node({"a": 0, "b": 0}) == "a"
    assert live.canary_node({}) == ""


# --- what the log says


def all_on(place: int):
    def actor(observation) -> OffloadDecision[np.ndarray]:
        tasks = len(observation.deadline_s)
        return OffloadDecision(np.zeros(tasks, dtype=int), np.full(tasks, place))

    return actor


def slowest(observation) -> OffloadDecision[np.ndarray]:
    return OffloadDecision(np.zeros(1, dtype=int), observation.option_server_s[:, 0].argmax(-1))


def log_of(site: DispatchedSite, count: int = 900, **more) -> list[Decided]:
    told = site.play(count, **more)
    return decided({"id": 0, "node": n, "epoch": 1, "reward": 0.0, **record.model_dump()} for n, record in told)


def test_the_log_tells_better_from_worse():
    log = log_of(DispatchedSite(explore=0.5), 1500)
    assert judge_by_log(log, sequential_greedy, SETTINGS).passed
    assert judge_by_log(log, slowest, SETTINGS).passed is False
    log = log_of(DispatchedSite(explore=0.5), 1500, actor=slowest)
    assert judge_by_log(log, sequential_greedy, SETTINGS).passed


def test_the_estimate_is_what_the_candidate_would_have_taken():
    site = DispatchedSite(explore=0.7, rate_per_s=0.3)  # hardly any queue, so that one decision changes no other
    verdict = judge_by_log(log_of(site, 1200), slowest, SETTINGS)
    logged = np.mean([r.latency_s for _, r in site.play(1200)])
    true = np.mean([r.latency_s for _, r in DispatchedSite(rate_per_s=0.3).play(1200, actor=slowest, seed=1)])
    said = float(verdict.reason.rpartition(", ")[2].partition("%")[0]) / 100
    assert said == pytest.approx(true / logged - 1, rel=0.1)


def test_a_log_that_says_too_little_says_so():
    certain = log_of(DispatchedSite())
    assert judge_by_log(certain, sequential_greedy, SETTINGS).passed
    verdict = judge_by_log(certain, slowest, SETTINGS)
    assert verdict.passed is None
    assert "effective decisions" in verdict.reason
    assert judge_by_log(certain[:100], sequential_greedy, SETTINGS).passed is None
    assert judge_by_log([], sequential_greedy, SETTINGS).passed is None


def test_a_shadow_must_decide_what_can_be_done():
    log = log_of(DispatchedSite(), 400)
    assert judge_shadow(log, sequential_greedy, SETTINGS).passed
    assert judge_shadow(log, slowest, SETTINGS).passed is False
    assert "cannot be carried out" in judge_shadow(log, all_on(7), SETTINGS).reason
    assert judge_shadow(log[:50], sequential_greedy, SETTINGS).passed is None


def test_what_is_explored_has_the_probability_that_is_told():
    rng, allowed = np.random.default_rng(0), np.array([[0.1, 0.15, math.inf]])
    drawn = [explored(np.array([0]), allowed, 0.4, rng) for _ in range(3000)]
    counts = {place: sum(chosen == [place] for chosen, _ in drawn) / 3000 for place in range(3)}
    said = {chosen[0]: probability[0] for chosen, probability in drawn}
    assert said == pytest.approx({0: 0.8, 1: 0.2})
    assert counts == pytest.approx({0: 0.8, 1: 0.2, 2: 0.0}, abs=0.03)
    assert explored(np.array([2]), np.array([[math.inf, 0.1, math.inf]]), 0.4, rng) == ([2], [1.0])


def test_an_actor_for_fixed_sizes_decides_about_less():
    policy = load_policy("learned")
    log = log_of(DispatchedSite(), 50)
    free = [policy(one.observation).server.tolist() for one in log]
    policy.sidecar["sizes"] = {"K": 4, "O": 2, "N": 6}
    assert [padded(policy)(one.observation).server.tolist() for one in log] == free
    policy.sidecar["sizes"] = {"K": 1, "O": 1, "N": 2}
    with pytest.raises(UserError, match="made for at most 2 on axis N, 3 at hand"):
        padded(policy)(log[0].observation)

"""Candidates in simulated worlds that are fitted to the site: the same episodes for candidate and running policy."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from coinfer.evaluate.policy_files import tensor_policy
from coinfer.evaluate.simulate import Maker, run_policy
from coinfer.evaluate.statistics import paired_difference
from coinfer.policies.onnx import load_policy
from coinfer.scenario.compile import Compiled, open_world
from coinfer.scenario.world import OffloadWorld
from coinfer.site.agent.padding import padded
from coinfer.site.fitting.evidence import Decided
from coinfer.site.fitting.fit import PAUSE_S, fit
from coinfer.site.fitting.requests import Asked, recorded_requests, with_short_slots
from coinfer.site.fitting.scenario_file import write_scenario
from coinfer.site.updater.rollout import Verdict
from coinfer.site.updater.settings import RolloutSettings

FALLBACK = "sequential-greedy"


def judge_in_worlds(decisions: Sequence[Decided], candidate: Path, running: str, settings: RolloutSettings) -> Verdict:
    """Return whether a candidate is no worse than the running policy in worlds fitted to the site.

    Args:
        decisions: of the log; the world is fitted to them.
        candidate: ONNX file.
        running: ONNX file; empty for sequential greedy.
        settings: thresholds.

    Raises:
        FitError: if the decisions do not tell enough of the world.
        UserError: if the candidate fails in the world.
    """
    torch.set_num_threads(1)
    world = fitted_world(decisions).world
    assert isinstance(world, OffloadWorld), "fitted scenarios are of environment offload"
    seeds = settings.worlds_seeds
    other = run_policy(world, FALLBACK, seeds, 1, maker_of(running) if running else None)
    own = run_policy(world, "candidate", seeds, 1, maker_of(candidate))
    mean_s = float(other.measures["mean_s"].mean())
    change = paired_difference(own.measures["mean_s"], other.measures["mean_s"])
    share, half = change.mean / mean_s, change.half / mean_s
    reason = f"worlds: {share:+.1%} ± {half:.1%} latency over {seeds} pairs of episodes"
    return Verdict(bool(share + half <= settings.worlds_margin), reason)


def fitted_world(decisions: Sequence[Decided], replayed: Sequence[Asked] = (), pause_s: float = PAUSE_S) -> Compiled:
    """Return the world that is fitted to decisions.

    Args:
        decisions: of the log.
        replayed: requests that come in it; without any they come by chance.
        pause_s: what was decided before such a pause does not count.

    Raises:
        FitError: if they do not tell enough.
    """
    found = fit(decisions, pause_s=pause_s)
    requests = recorded_requests(found, replayed)
    with tempfile.TemporaryDirectory(prefix="coinfer-world-") as folder:
        written = write_scenario(with_short_slots(found) if requests else found, Path(folder), "site", requests)
        return open_world(written)


def maker_of(path: str | Path) -> Maker:
    """Return the maker of a policy file's policy for any world that it is large enough for.

    Args:
        path: ONNX file.
    """
    policy = tensor_policy(padded(load_policy(path)))
    return lambda seed: policy

"""What a candidate would have done on live observations, predicted: nothing of it is carried out."""

import time
from collections.abc import Sequence

import numpy as np

from coinfer.site.agent.dispatch import checked
from coinfer.site.fitting.evidence import Decided
from coinfer.site.updater.off_policy import Policy
from coinfer.site.updater.rollout import Verdict
from coinfer.site.updater.settings import RolloutSettings
from coinfer.site.updater.statistics import by_key, median_of_nodes
from coinfer.types import OffloadObservation


def judge_shadow(decisions: Sequence[Decided], policy: Policy, settings: RolloutSettings) -> Verdict:
    """Return whether a candidate decides well, by prediction, where others have decided.

    Args:
        decisions: of edge servers since the shadow began.
        policy: the candidate.
        settings: thresholds.
    """
    groups = by_key([one for one in decisions if one.by_server], lambda one: (one.node, one.record.group))
    joint = {key: own for key, own in groups.items() if len(own) == len(own[0].observation.deadline_s)}
    count = sum(map(len, joint.values()))
    if count < settings.shadow_decisions:
        return Verdict(None, f"shadow: {count} of {settings.shadow_decisions} decisions")
    invalid, took_s, changes = 0, list[float](), dict[str, list[tuple[float, float]]]()
    for (node, _), own in joint.items():
        observation, began_s = own[0].observation, time.perf_counter()
        try:
            wished = checked(policy(observation), observation).server
        except Exception:
            invalid += len(own)
            continue
        took_s.append(time.perf_counter() - began_s)
        made = np.array([one.record.server for one in sorted(own, key=lambda one: one.record.task)])
        changes.setdefault(node, []).append((joint_s(observation, wished), joint_s(observation, made)))
    if invalid > settings.shadow_invalid * count:
        return Verdict(False, f"shadow: {invalid} of {count} decisions cannot be carried out")
    change = median_of_nodes({node: _change(own) for node, own in changes.items()})
    reason = (
        f"shadow: {change:+.1%} predicted latency in {count} decisions, {1e3 * float(np.median(took_s)):.2g} ms each"
    )
    return Verdict(change <= settings.shadow_margin, reason)


def _change(pairs: Sequence[tuple[float, float]]) -> float:
    wished_s, made_s = np.array(pairs).sum(axis=0)
    return float(wished_s / max(made_s, 1e-12) - 1)


def joint_s(observation: OffloadObservation[np.ndarray], server: np.ndarray) -> float:
    """Return the predicted latencies of tasks that are decided together, summed; those ahead make their servers busy.

    Args:
        observation: K tasks with one option each.
        server: [K] chosen servers.
    """
    free_s, total_s = observation.server_backlog_s.copy(), 0.0
    arrived_s = observation.uplink_backlog_s + observation.option_upload_bits[:, :1] / observation.uplink_bps
    for task in np.argsort(observation.deadline_s, kind="stable"):
        n = server[task]
        free_s[n] = max(arrived_s[task, n], free_s[n]) + observation.option_server_s[task, 0, n]
        total_s += float(free_s[n])
    return total_s

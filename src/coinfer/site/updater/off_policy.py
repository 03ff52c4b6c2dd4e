"""What a policy would have been worth, from the log of others.

Doubly robust (Dudik, Langford, Li 2011): the latency that physics predicts of the candidate's choice, and where the log
made the same choice, what was measured beyond the prediction, over the probability of that choice. Every decision
counts by itself, as if the others of the same moment had stayed as they were. All is done for each node, and the median
of the nodes counts.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from coinfer.physics.latency import offload_latency_s
from coinfer.site.fitting.evidence import Decided
from coinfer.site.updater.rollout import Verdict
from coinfer.site.updater.settings import RolloutSettings
from coinfer.site.updater.statistics import Mean, block_mean, by_key, limited, median_of_nodes
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation

Policy = Callable[[OffloadObservation[np.ndarray]], OffloadDecision[np.ndarray]]
LARGEST_WEIGHT = 200.0
"""A probability below a two-hundredth counts as that: one decision must not stand for more."""


class NodeEstimate(NamedTuple):
    """The estimate from one node's decisions."""

    change: Mean
    """Latency of the candidate less that of the log, as a share of the log's."""
    effective: float
    """Decisions that the weights are worth (Kish)."""
    coverage: float
    """Mean weight: 1 if the log tries all that the candidate would do."""


def judge_by_log(decisions: Sequence[Decided], policy: Policy, settings: RolloutSettings) -> Verdict:
    """Return whether the log says that a policy is worse than what decided there.

    Args:
        decisions: of edge servers, in the order of the log.
        policy: the candidate.
        settings: thresholds.
    """
    groups = by_key([one for one in decisions if one.by_server], lambda one: one.node)
    found = {node: estimate_node(own, policy) for node, own in groups.items() if len(own) >= 2}
    if not found:
        return Verdict(None, "log: no decision of an edge server")
    effective = sum(one.effective for one in found.values())
    coverage = median_of_nodes({node: one.coverage for node, one in found.items()})
    weighed = f"log: {effective:.0f} effective decisions of {len(decisions)}, coverage {coverage:.0%}"
    if effective < settings.effective_decisions:
        return Verdict(None, f"{weighed}, too few; at least {settings.effective_decisions} are needed")
    if coverage < settings.coverage:
        return Verdict(None, f"{weighed}: it does what the log hardly tried; {settings.coverage:.0%} is needed")
    low = median_of_nodes({node: one.change.low for node, one in found.items()})
    mean = median_of_nodes({node: one.change.mean for node, one in found.items()})
    half = median_of_nodes({node: one.change.half for node, one in found.items()})
    return Verdict(low <= settings.log_margin, f"{weighed}, {mean:+.1%} ± {half:.1%} latency")


def estimate_node(decisions: Sequence[Decided], policy: Policy) -> NodeEstimate:
    """Return what a policy would have changed for one node.

    Args:
        decisions: of this node, in the order of the log; at least 2.
        policy: the candidate.
    """
    wishes: dict[int, OffloadDecision[np.ndarray]] = {}
    for one in decisions:
        if id(one.observation) not in wishes:
            wishes[id(one.observation)] = policy(one.observation)
    rows = np.array([_row(one, wishes[id(one.observation)]) for one in decisions])
    measured, believed, wished, weight = rows.T
    usual_s = float(np.median(measured))
    measured = limited(measured.tolist(), usual_s)
    scale = measured.sum() / max(np.minimum(believed, 10 * usual_s).sum(), 1e-12)
    believed, wished = (np.minimum(part * scale, 10 * usual_s) for part in (believed, wished))
    value = wished + weight * (measured - believed)
    total = weight.sum()
    effective = float(total**2 / (weight**2).sum()) if total else 0.0
    change = block_mean(value - measured)
    mean_s = max(float(measured.mean()), 1e-12)
    return NodeEstimate(Mean(change.mean / mean_s, change.half / mean_s), effective, float(weight.mean()))


def _row(one: Decided, wish: OffloadDecision[np.ndarray]) -> tuple[float, float, float, float]:
    """Return measured latency, that predicted of the same choice and of the candidate's, and the weight."""
    task, record = one.record.task, one.record
    predicted_s = offload_latency_s(one.observation)[task]
    own = (record.option, max(record.server, 0))
    wished = (int(wish.option[task]), int(wish.server[task]))
    same = wished == (record.option, record.server)
    weight = min(1 / record.probability, LARGEST_WEIGHT) if same else 0.0
    wished_s = float(predicted_s[wished[0], max(wished[1], 0)]) if wished[1] >= DEVICE else np.inf
    return record.latency_s, float(predicted_s[own]), wished_s, weight

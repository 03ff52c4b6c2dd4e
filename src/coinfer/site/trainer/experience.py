"""Decisions of edge servers as steps of an environment, for the agents of CDO-DSAC."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from coinfer.policies.learned.placement.placements import fixed_cut
from coinfer.policies.learned.placement.policy import MakeFeatures
from coinfer.rl.core.envs.placements import UNIT_S
from coinfer.rl.core.records import Transition
from coinfer.site.agent.padding import pad
from coinfer.site.fitting.evidence import Decided
from coinfer.site.updater.statistics import OUTLIER, by_key
from coinfer.types import OffloadObservation


class Sizes(NamedTuple):
    """Places that the agents' networks were made for."""

    tasks: int
    options: int
    servers: int


class _Joint(NamedTuple):
    """Tasks that were decided together."""

    observation: OffloadObservation[np.ndarray]
    server: np.ndarray
    latency_s: np.ndarray


def transitions(decisions: Sequence[Decided], sizes: Sizes, features: MakeFeatures) -> Transition | None:
    """Return the steps [1, n, ..] that edge servers made, each from one joint decision to the next of the same server.

    Rewards are minus the measured latencies, as in simulation (`PlacementEnv`); latencies of more than ten medians
    count as that.

    Args:
        decisions: of the log, in its order.
        sizes: of the agents' networks; what does not fit into them is left out.
        features: maps observations and placements to the inputs of the networks.

    Returns:
        The steps, or None if there are none.
    """
    pairs = [pair for own in by_key(decisions, lambda one: one.node).values() for pair in _pairs(own, sizes)]
    if not pairs:
        return None
    usual_s = float(np.median(np.concatenate([now.latency_s for now, _ in pairs])))
    now, after = (_stack([pair[i].observation for pair in pairs], sizes) for i in (0, 1))
    placed, placed_after = fixed_cut(now), fixed_cut(after)
    action = np.zeros((len(pairs), sizes.tasks), dtype=np.int64)
    latency_s = np.zeros((len(pairs), sizes.tasks), dtype=np.float32)
    for row, (joint, _) in enumerate(pairs):
        action[row, : len(joint.server)] = joint.server
        latency_s[row, : len(joint.server)] = np.minimum(joint.latency_s, OUTLIER * usual_s)
    steps = Transition(
        features(now, placed), placed.mask, now.task_mask, torch.from_numpy(action),
        torch.from_numpy(-latency_s / UNIT_S), torch.ones(len(pairs)),
        features(after, placed_after), placed_after.mask, after.task_mask,
    )  # fmt: skip
    return Transition(*(part[None] for part in steps))


def _pairs(decisions: Sequence[Decided], sizes: Sizes) -> list[tuple[_Joint, _Joint]]:
    """Return the joint decisions of one server, each with the next one."""
    groups = by_key([one for one in decisions if one.by_server], lambda one: one.record.group)
    joint: list[_Joint] = []
    for own in groups.values():
        seen = own[0].observation
        tasks, options, servers = seen.option_server_s.shape
        if len(own) == tasks <= sizes.tasks and options <= sizes.options and servers <= sizes.servers:
            own.sort(key=lambda one: one.record.task)
            chosen = np.array([one.record.server for one in own])
            joint.append(_Joint(seen, chosen, np.array([one.record.latency_s for one in own])))
    return [(now, after) for now, after in pairwise(joint) if now.server.min() >= 0]


def _stack(observations: Sequence[OffloadObservation[np.ndarray]], sizes: Sizes) -> OffloadObservation[Tensor]:
    """Return observations of any sizes as one batch."""
    axes = dict(zip("KON", sizes, strict=True))
    padded = [pad(one, axes, 0) for one in observations]
    stacked = (np.stack(parts) for parts in zip(*padded, strict=True))
    arrays = (part if part.dtype == bool else part.astype(np.float32) for part in stacked)
    return OffloadObservation(*map(torch.from_numpy, arrays))

"""Decisions of the log with what their deciders saw: the records of a store, checked and as arrays."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from coinfer.site.agent.observed import observation_of
from coinfer.site.messages import Decision
from coinfer.types import DEVICE, OffloadObservation


class Decided(NamedTuple):
    """A request that was decided, and what came of it."""

    node: str
    """Who decided."""
    record: Decision
    observation: OffloadObservation[np.ndarray]
    """Without a batch axis; tasks that were decided together share it."""
    addresses: tuple[str, ...]
    """Of the servers of the observation; empty if the node did not tell."""

    @property
    def by_server(self) -> bool:
        """Return true if the edge server decided that the request had reached."""
        return self.record.group > 0


def decided(records: Iterable[Mapping[str, Any]]) -> list[Decided]:
    """Return the decisions whose observation is known and fits them, in the order of the log.

    Args:
        records: as `store.read_experience` yields them.
    """
    parsed = [(str(one["node"]), int(one["epoch"]), record) for one in records if (record := _record(one)) is not None]
    seen: dict[tuple[str, int, int, int], tuple[OffloadObservation[np.ndarray], tuple[str, ...]]] = {}
    for node, epoch, record in parsed:
        if record.observation is not None:
            arrays = observation_of(record.observation)
            if arrays is not None:
                seen[_key(node, epoch, record)] = (arrays, tuple(record.observation.addresses))
    found = ((node, record, seen.get(_key(node, epoch, record))) for node, epoch, record in parsed)
    return [Decided(node, record, *known) for node, record, known in found if known and _fits(record, known[0])]


def _record(stored: Mapping[str, Any]) -> Decision | None:
    """Return a stored decision; None if it is of a version that knew other fields."""
    own = {name: value for name, value in stored.items() if name not in ("id", "node", "epoch", "reward")}
    try:
        return Decision.model_validate(own)
    except ValidationError:
        return None


def _key(node: str, epoch: int, record: Decision) -> tuple[str, int, int, int]:
    """Return what decisions with one observation have in common."""
    return (node, epoch, record.group, 0 if record.group else record.seq)


def _fits(record: Decision, observation: OffloadObservation[np.ndarray]) -> bool:
    tasks, options, servers = observation.option_server_s.shape
    return record.task < tasks and record.option < options and DEVICE <= record.server < servers

"""What was measured since a policy decides: candidate and running policy on one server, running policy and fallback."""

import math
import sqlite3
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coinfer.site.agent.actors import GREEDY, RULES, version_name
from coinfer.site.draw import drawn, place
from coinfer.site.updater.rollout import Verdict
from coinfer.site.updater.settings import RolloutSettings
from coinfer.site.updater.statistics import Mean, block_mean, by_key, difference, limited, median_of_nodes

KEPT = 50_000
"""Newest decisions that are remembered."""


class Measured(NamedTuple):
    """A request whose server was chosen by the edge server that it reached."""

    id: int
    node: str
    policy: str
    heard_s: float
    """When the controller read it, on its own clock."""
    latency_s: float
    reached: str = ""
    """Address of the server that the device says it reached; empty for what that server says itself."""
    request: str = ""
    """Its id."""


class LiveLog:
    """The newest measured latencies of the log, read as they come.

    Args:
        path: of the store.
        last_id: decisions up to this number are old.
    """

    def __init__(self, path: Path, last_id: int):
        self.last_id = last_id
        self.measured: deque[Measured] = deque(maxlen=KEPT)
        self._path = path

    def read(self, now_s: float) -> None:
        """Take in what is new.

        Args:
            now_s: on the controller's clock.
        """
        by_server, request = "json_extract(record, '$.group') > 0", "json_extract(record, '$.request')"
        first = "json_extract(record, '$.observation.addresses[' || server || ']')"
        query = (
            f"SELECT id, node, policy, latency_s, {by_server}, {request}, coalesce({first}, executed_on) "
            f"FROM experience WHERE id > ? AND ({by_server} OR {request} IS NOT NULL) ORDER BY id LIMIT ?"
        )
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)) as db:
            rows = db.execute(query, (self.last_id, KEPT)).fetchall()
        self.measured.extend(
            Measured(
                id,
                node,
                GREEDY if policy in RULES else policy,
                now_s,
                latency_s,
                "" if by_server else address,
                request or "",
            )
            for id, node, policy, latency_s, by_server, request, address in rows
        )
        self.last_id = rows[-1][0] if rows else self.last_id


def policy_name(version: int) -> str:
    """Return what decisions of a version are marked with in the log.

    Args:
        version: its number; 0 for the fallback.
    """
    return version_name(version) if version else GREEDY


def drawn_again(
    measured: Iterable[Measured], node: str, address: str, shares: Mapping[int, float], salt: str
) -> list[Measured]:
    """Return what devices say of requests that reached a server, each with the version that was drawn for it there.

    Which version that is comes from the id that the device drew, and not from the server's word.

    Args:
        measured: since the canary began.
        node: the server.
        address: of the server.
        shares: of the versions that decide there.
        salt: by which they are drawn.
    """
    told = (one for one in measured if one.reached and one.reached == address and one.request)
    return [one._replace(node=node, policy=policy_name(drawn(shares, place(salt, one.request)))) for one in told]


def judge_canary(
    measured: Iterable[Measured], node: str, candidate: int, running: int, settings: RolloutSettings
) -> Verdict:
    """Return whether a candidate does as well on its server as what runs there, measured at the same time.

    What counts is what devices say: a server that lies would pass its own test.

    Args:
        measured: since the canary began, of the server, and of devices from `drawn_again`.
        node: the server.
        candidate: version.
        running: version.
        settings: thresholds.
    """
    mine = [one for one in measured if one.node == node]
    own = [one for one in mine if not one.reached]
    said = own if settings.canary_own_word else [one for one in mine if one.reached]
    first, second = ([o for o in said if o.policy == policy_name(v)] for v in (candidate, running))
    whose = "its own decisions" if settings.canary_own_word else "decisions that devices have reported"
    counts = f"canary on {node}: {len(first)} and {len(second)} {whose}"
    if len(own) >= 2 * settings.canary_decisions:
        made = sum(one.policy == policy_name(candidate) for one in own)
        missed = 1 - made / len(own) / settings.canary_share
        if missed > settings.canary_missed:
            return Verdict(False, f"{counts}; {missed:.0%} of its own it did not make, because it was late or wrong")
    if min(len(first), len(second)) < settings.canary_decisions:
        return Verdict(None, f"{counts}; {settings.canary_decisions} of each are needed")
    change = _change([first, second])
    passed = change.low <= settings.canary_margin
    return Verdict(passed, f"{counts}, {change.mean:+.1%} ± {change.half:.1%} latency")


def judge_running(measured: Iterable[Measured], running: int, settings: RolloutSettings) -> Verdict:
    """Return whether the running policy does as well as the fallback, by the median of the servers.

    Args:
        measured: of the window in which it is watched.
        running: version.
        settings: thresholds.
    """
    changes: dict[str, Mean] = {}
    for node, own in by_key([one for one in measured if not one.reached], lambda one: one.node).items():
        parts = [[o for o in own if o.policy == name] for name in (policy_name(running), GREEDY)]
        if min(map(len, parts)) >= settings.watch_decisions:
            changes[node] = _change(parts)
    if not changes:
        return Verdict(None, "watch: too few decisions of the running policy and the fallback")
    low = median_of_nodes({node: change.low for node, change in changes.items()})
    mean = median_of_nodes({node: change.mean for node, change in changes.items()})
    return Verdict(low <= settings.watch_margin, f"{mean:+.1%} latency against the fallback on {len(changes)} servers")


def _change(parts: Sequence[Sequence[Measured]]) -> Mean:
    """Return the latency of the first less that of the second, as a share of the second's."""
    usual_s = float(np.median([one.latency_s for part in parts for one in part]))
    first, second = (block_mean(limited([one.latency_s for one in part], usual_s)) for part in parts)
    change, base_s = difference(first, second), max(second.mean, 1e-9)
    return Mean(change.mean / base_s, change.half / base_s)


def canary_node(loads: Mapping[str, int]) -> str:
    """Return the server that tries a candidate first: of those that decide, the one with the fewest decisions.

    Args:
        loads: decisions of each server that is there; at least one.
    """
    busy = {node: count for node, count in loads.items() if count} or dict(loads)
    return min(busy, key=lambda node: (busy[node], node)) if busy else ""


def since(measured: Iterable[Measured], after_id: int = 0, after_s: float = -math.inf) -> list[Measured]:
    """Return what was measured later.

    Args:
        measured: any.
        after_id: only larger numbers.
        after_s: only what the controller read later.
    """
    return [one for one in measured if one.id > after_id and one.heard_s > after_s]

"""CDLP: which options can be best at any link rate, and which of them is best at a given one.

CIAS-PnO (Xu et al., IJSEKE 2023, DOI 10.1142/S0218194023410085) prunes the cuts of concurrent tasks before it decides;
only its abstract is public, so the pruning is ours. The latency `compute_s + upload_bits / rate_bps` of an option is a
line over 1 / rate, so the options that win somewhere are the lower convex hull of the points (upload_bits, compute_s),
and a binary search among the rates at which neighbours on the hull tie finds the best one at a rate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from coinfer.partition.mincut import frontier
from coinfer.partition.problem import Partition, PartitionError, Problem, compute_s, partition, sent_bits
from coinfer.types import DEVICE


def hull(problem: Problem) -> Partition:
    """Return the best of all legal cuts with each server, each from that server's hull; exact up to `mincut.ROUNDING`.

    Args:
        problem: of any number of servers.
    """
    if problem.nodes == 1:
        return partition(problem, np.zeros(len(problem.graph.ops), dtype=int))
    hulls, places = zip(*(server_hull(problem, server) for server in range(1, problem.nodes)), strict=True)
    choice = best_of(hulls, problem.rate_bps[0, 1:], problem.wait_s[1:])
    return partition(problem, places[max(int(choice.server), 0)][int(choice.option)])


def server_hull(problem: Problem, server: int) -> tuple["Hull", np.ndarray]:
    """Return the hull over all legal cuts with one server, and the placements [V, ops] that its options index.

    Args:
        problem: its link rates do not matter: the hull answers for every rate.
        server: 1 to N.
    """
    places = frontier(problem, server)
    return Hull.build(compute_s(problem, places), sent_bits(problem, places)[:, 0, server]), places


class Choice(NamedTuple):
    """Decisions for many tasks at once; all arrays have the tasks' shape [..]."""

    option: np.ndarray
    """Index into the options that the chosen server's hull was built from."""
    server: np.ndarray
    """Index into the hulls, or `DEVICE` if nothing is sent."""
    latency_s: np.ndarray
    """Infinite if no option is possible."""


@dataclass(frozen=True, eq=False)
class Hull:
    """The V options that are best at some link rate, by rising `upload_bits` and falling `compute_s`."""

    options: np.ndarray
    """[V] index of the option among those it was built from."""
    upload_bits: np.ndarray
    """[V]"""
    compute_s: np.ndarray
    """[V] on device and server together, coding included."""
    threshold_bps: np.ndarray
    """[V - 1] above this rate option v + 1 is better than option v, at it both are equal."""

    @staticmethod
    def build(compute_s: np.ndarray, upload_bits: np.ndarray) -> "Hull":
        """Return the hull of options.

        Args:
            compute_s: [O] on device and server together; an infinite time never wins.
            upload_bits: [O]

        Raises:
            PartitionError: if no option is left, or a size is negative or not a number.
        """
        compute_s, upload_bits = np.asarray(compute_s, dtype=float), np.asarray(upload_bits, dtype=float)
        _check_options(compute_s, upload_bits)
        order = np.lexsort((compute_s, upload_bits))
        options = np.array(_winners(order[np.isfinite(compute_s + upload_bits)[order]], compute_s, upload_bits))
        threshold_bps = [_tie_bps(compute_s, upload_bits, *pair) for pair in pairwise(options)]
        return Hull(options, upload_bits[options], compute_s[options], np.array(threshold_bps))

    def best(self, rate_bps: np.ndarray | float) -> np.ndarray:
        """Return the index [..] of the option with the least latency; of two equal ones, the one that sends less.

        Args:
            rate_bps: [..] link rates; 0 is a dead link.

        Raises:
            PartitionError: if a rate is negative or not a number.
        """
        return self.options[self._vertex(rate_bps)]

    def latency_s(self, rate_bps: np.ndarray | float) -> np.ndarray:
        """Return the least latency [..] at each link rate, without waiting.

        Args:
            rate_bps: [..] link rates; 0 is a dead link.

        Raises:
            PartitionError: if a rate is negative or not a number.
        """
        vertex = self._vertex(rate_bps)
        return self.compute_s[vertex] + _upload_s(self.upload_bits[vertex], np.asarray(rate_bps, dtype=float))

    def _vertex(self, rate_bps: np.ndarray | float) -> np.ndarray:
        rate_bps = np.asarray(rate_bps, dtype=float)
        if not (rate_bps >= 0).all():
            raise PartitionError("rate_bps must not be negative or NaN")
        return np.searchsorted(self.threshold_bps, rate_bps, side="left")


def best_of(hulls: Sequence[Hull], rate_bps: np.ndarray, wait_s: np.ndarray | float = 0.0) -> Choice:
    """Return the best option and server for each of many tasks.

    An option that sends nothing does not pay the wait. It hides no better one on its hull: if it wins without the wait,
    it wins with it.

    Args:
        hulls: [N] built from the same options, with the times of server n in hull n.
        rate_bps: [.., N] from each task's device to each server.
        wait_s: [.., N] queue and round trip of each server, or one for all.

    Raises:
        PartitionError: if there is no hull, or the rates are not [.., N] or not at least 0.
    """
    rate_bps = np.asarray(rate_bps, dtype=float)
    if not hulls or rate_bps.shape[-1] != len(hulls):
        raise PartitionError(f"rate_bps must be [.., {len(hulls)}], one for each hull, got {list(rate_bps.shape)}")
    wait_s = np.broadcast_to(np.asarray(wait_s, dtype=float), rate_bps.shape)
    local_s = hulls[0].compute_s[0] if hulls[0].upload_bits[0] == 0 else np.inf
    best_s = np.full(rate_bps.shape[:-1], local_s)
    option = np.full(rate_bps.shape[:-1], hulls[0].options[0])
    server = np.full(rate_bps.shape[:-1], DEVICE)
    for n, hull in enumerate(hulls):
        vertex = hull._vertex(rate_bps[..., n])
        upload_bits = hull.upload_bits[vertex]
        offered_s = hull.compute_s[vertex] + _upload_s(upload_bits, rate_bps[..., n]) + wait_s[..., n]
        better = (offered_s < best_s) & (upload_bits > 0)
        option = np.where(better, hull.options[vertex], option)
        server = np.where(better, n, server)
        best_s = np.where(better, offered_s, best_s)
    return Choice(option, server, best_s)


def _upload_s(upload_bits: np.ndarray, rate_bps: np.ndarray) -> np.ndarray:
    """Return the time of uploads; sending nothing takes no time even on a dead link."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(upload_bits > 0, upload_bits / rate_bps, 0.0)


def _winners(order: np.ndarray, compute_s: np.ndarray, upload_bits: np.ndarray) -> list[int]:
    """Return the options that some rate makes the best, in the order of rising bits.

    Args:
        order: indices of the options by rising bits, then seconds.
    """
    winners: list[int] = []
    for option in order.tolist():
        if winners and not compute_s[option] < compute_s[winners[-1]]:
            continue
        while len(winners) > 1 and not (
            _tie_bps(compute_s, upload_bits, *winners[-2:]) < _tie_bps(compute_s, upload_bits, winners[-1], option)
        ):
            winners.pop()
        winners.append(option)
    return winners


def _tie_bps(compute_s: np.ndarray, upload_bits: np.ndarray, fewer: int, more: int) -> float:
    """Return the rate at which the option with more bits and less computing catches up."""
    with np.errstate(over="ignore"):
        return float((upload_bits[more] - upload_bits[fewer]) / (compute_s[fewer] - compute_s[more]))


def _check_options(compute_s: np.ndarray, upload_bits: np.ndarray) -> None:
    if compute_s.ndim != 1 or compute_s.shape != upload_bits.shape:
        shapes = f"{list(compute_s.shape)} and {list(upload_bits.shape)}"
        raise PartitionError(f"compute_s and upload_bits must be two rows of equal length, got {shapes}")
    if not (upload_bits >= 0).all() or not (compute_s >= 0).all():
        raise PartitionError("compute_s and upload_bits must not be negative or NaN")
    if not np.isfinite(compute_s + upload_bits).any():
        raise PartitionError(f"none of {len(compute_s)} options has a finite time and size")

"""Which pieces of networks a server keeps in memory. Edge servers and the simulator share this.

A request for a piece that is not in memory (a cold one) waits until it is loaded; requests that come meanwhile wait for
the same load. A server loads one piece at a time, while its workers compute others; the request joins the queue once
the piece is there. Room is made first: pieces that no request waits for or uses are evicted until the new one fits.

Evicted is what was least recently used, weighted by what loading it again would cost: GreedyDual-Size (Cao and Irani,
"Cost-Aware WWW Proxy Caching Algorithms", USITS 1997). Each use gives a piece the credit `L + load_s / size`; the piece
with the least credit goes first (of equal ones the least recently used), and L rises to its credit. With loading times
in proportion to sizes that is plain least-recently-used.
"""

from collections.abc import Hashable, Mapping, Set
from typing import NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)


class Loaded(NamedTuple):
    """A piece in memory."""

    size_bytes: float
    """Above 0."""
    load_s: float
    """What loading it took."""
    credit: float
    """From `credit` at its last use."""


def credit(floor: float, load_s: float, size_bytes: float) -> float:
    """Return the credit of a piece that is used now.

    Args:
        floor: L, the credit of what was evicted last; 0 at first.
        load_s: what loading the piece takes.
        size_bytes: memory that it takes, above 0.
    """
    return floor + load_s / size_bytes


def evicted(pieces: Mapping[K, Loaded], needed_bytes: float, in_use: Set[K] = frozenset()) -> tuple[K, ...]:
    """Return the pieces to evict, in order, so that at least some bytes become free.

    Args:
        pieces: in memory, the least recently used first; of equal credits the first goes first.
        needed_bytes: 0 or less needs nothing.
        in_use: stay.

    Returns:
        All that may go if those are too few.
    """
    gone = sorted((piece for piece in pieces if piece not in in_use), key=lambda piece: pieces[piece].credit)
    count, freed = 0, 0.0
    while count < len(gone) and freed < needed_bytes:
        freed += pieces[gone[count]].size_bytes
        count += 1
    return tuple(gone[:count])

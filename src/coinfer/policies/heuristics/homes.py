"""A server for each network, the same for everybody: what deciders can agree on who do not know of each other."""

from collections.abc import Sequence

from coinfer.types import DEVICE


def homes(
    work: Sequence[float], size_bytes: Sequence[float], memory_bytes: Sequence[float], *, crowded: bool = False
) -> list[int]:
    """Return the home of each network, [X]: servers get about equal work, of networks that their memory holds.

    The largest networks choose first (where memory is not limited, those with most work); each goes to the server with
    least work of those with room for it. Without one it stays on devices or, if `crowded`, shares the room of others:
    of these, those with most work choose first, each the server with least work of those that could hold it.

    Args:
        work: [X] share of the servers' time that each network takes.
        size_bytes: [X] of each network.
        memory_bytes: [N] of each server; infinite where memory is not limited.
        crowded: whether a server's memory need not hold all that are at home there at the same time.
    """
    is_limited = any(memory < float("inf") for memory in memory_bytes)
    taken_bytes, taken_work = [0.0] * len(memory_bytes), [0.0] * len(memory_bytes)
    found = [DEVICE] * len(work)
    for x in sorted(range(len(work)), key=lambda x: (-size_bytes[x] if is_limited else 0.0, -work[x])):
        fits = [n for n, memory in enumerate(memory_bytes) if taken_bytes[n] + size_bytes[x] <= memory]
        if not fits:
            continue
        home = min(fits, key=lambda n: (taken_work[n], taken_bytes[n]))
        found[x] = home
        taken_bytes[home] += size_bytes[x]
        taken_work[home] += work[x]
    for x in sorted(range(len(work)), key=lambda x: -work[x]) if crowded else ():
        could = [n for n, memory in enumerate(memory_bytes) if size_bytes[x] <= memory]
        if found[x] == DEVICE and could:
            found[x] = min(could, key=taken_work.__getitem__)
            taken_work[found[x]] += work[x]
    return found

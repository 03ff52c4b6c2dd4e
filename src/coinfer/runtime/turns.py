"""Whose turn it is: callers take turns in the queues of a node, so that one who asks for much shuts nobody out."""

from collections import Counter
from collections.abc import Sequence
from contextvars import ContextVar
from typing import NamedTuple, Protocol, TypeVar

from coinfer.runtime.protocol.messages import DEFAULT_PRIORITY


class Turn(NamedTuple):
    """What decides on the place of work in a queue."""

    caller: str = ""
    """Whose it is: the name in a certificate, or the address of a host; empty for the process itself."""
    priority: int = DEFAULT_PRIORITY
    """The smallest number is served first."""


class HasTurn(Protocol):
    """What waits in a queue."""

    @property
    def caller(self) -> str:
        """Return whose it is."""
        ...

    @property
    def priority(self) -> int:
        """Return its priority."""
        ...


Work = TypeVar("Work", bound=HasTurn)
present_turn: ContextVar[Turn] = ContextVar("coinfer_turn", default=Turn())  # noqa: B039  (it is immutable)
"""Of the present task; a front says whose it is."""


def set_caller(name: str) -> None:
    """Say for whom the present task works.

    Args:
        name: as its certificate has it.
    """
    present_turn.set(Turn(name))


def set_address(host: str) -> None:
    """Say from where the present task was asked, which tells callers apart if no certificate names them.

    Args:
        host: of the caller.
    """
    if not present_turn.get().caller:
        present_turn.set(Turn(host))


def in_turn(waiting: Sequence[Work]) -> tuple[Work, ...]:
    """Return work in the order in which it is served: by priority, then every caller's first before any one's second.

    Args:
        waiting: in turn, and new work after that; so who was served last is not the next.
    """
    turns, placed = Counter[tuple[int, str]](), list[tuple[int, int, Work]]()
    for work in waiting:
        placed.append((work.priority, turns[work.priority, work.caller], work))
        turns[work.priority, work.caller] += 1
    return tuple(work for _, _, work in sorted(placed, key=lambda place: place[:2]))


def gives_way(waiting: Sequence[Work], new: HasTurn) -> Work | None:
    """Return what leaves a full queue for new work: the last of who has most, if the new caller has less even then.

    Args:
        waiting: in turn.
        new: less urgent work takes nobody's place.
    """
    held = Counter(other.caller for other in waiting)
    last = max(reversed(waiting), key=lambda other: held[other.caller], default=None)
    is_less = last is not None and held[new.caller] + 1 < held[last.caller] and new.priority <= last.priority
    return last if is_less else None

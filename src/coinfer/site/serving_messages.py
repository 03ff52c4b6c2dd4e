"""What edge servers that batch or load tell of that: `ServingProfile` once, and again if it changes, `ServingLoad` with
their load."""

from itertools import pairwise
from typing import Annotated

from pydantic import Field, model_validator

from coinfer.site.message_types import Count, Message, Number, Seconds, Text

MAX_NETWORKS, MAX_PIECES = 256, 256
"""Networks and their pieces of which a server that batches or loads tells more."""
MAX_WAITING = 256
"""Requests that wait on such a server, of which it tells."""
Index = Annotated[int, Field(ge=0, lt=256)]


class NetworkProfile(Message):
    """What an edge server measured of a network that it batches, or may have to load."""

    name: Text
    sizes: Annotated[tuple[Annotated[int, Field(ge=1, le=1024)], ...], Field(min_length=1, max_length=16)] = (1,)
    """Of batches, as in `physics.batching.BatchTimes`; of its piece that runs in the largest ones."""
    ratios: Annotated[
        tuple[Annotated[float, Field(allow_inf_nan=False, gt=0, le=1e6)], ...], Field(min_length=1, max_length=16)
    ] = (1.0,)
    load_s: Seconds = 0.0
    size_bytes: Count = 0
    """Of memory; 0 where that is not limited."""

    @model_validator(mode="after")
    def _has_a_time_for_each_size(self) -> "NetworkProfile":
        if len(self.sizes) != len(self.ratios) or self.sizes[0] != 1:
            raise ValueError("expected as many ratios as sizes, the first size 1")
        if any(later <= earlier for earlier, later in pairwise(self.sizes)):
            raise ValueError("the sizes do not grow")
        return self


class PieceName(Message):
    """A piece for which requests came."""

    work: Text
    """See `view.work_key`."""
    network: Index
    """Index into the networks of the profile."""


class ServingProfile(Message):
    """What changes seldom about an edge server that batches, or whose memory is limited."""

    memory_bytes: Count | None = None
    """That networks may take; None if it is not limited."""
    networks: Annotated[tuple[NetworkProfile, ...], Field(max_length=MAX_NETWORKS)] = ()
    pieces: Annotated[tuple[PieceName, ...], Field(max_length=MAX_PIECES)] = ()


class ServingLoad(Message):
    """What changes with every request of such a server; networks and pieces are indices into its profile."""

    free_s: Seconds = 0.0
    """Until the batch that runs has ended, and all of which the others know no piece."""
    running: Annotated[tuple[Index, ...], Field(max_length=8)] = ()
    """Networks of what runs."""
    waiting: Annotated[tuple[Index, ...], Field(max_length=MAX_WAITING)] = ()
    """Pieces of the requests that wait: of those in the queue, in its order, then of those that wait for a load."""
    cold: Count = 0
    """The last so many of them wait for a load."""
    deadlines_s: Annotated[tuple[Seconds | None, ...], Field(max_length=MAX_WAITING)] = ()
    """Of the requests that wait, from now; None for none, and empty if none has one."""
    warm: Annotated[tuple[Index, ...], Field(max_length=MAX_NETWORKS)] = ()
    """Networks in memory, if that is limited."""
    credits: Annotated[tuple[Number, ...], Field(max_length=MAX_NETWORKS)] = ()
    """Of those in memory (`piece_memory.MemoryUse`)."""
    loading: Index | None = None
    """Network that is being loaded."""
    loaded_s: Seconds = 0.0
    """Until it is there."""
    wanted: Annotated[tuple[Index, ...], Field(max_length=MAX_NETWORKS)] = ()
    """Networks that wait to be loaded, in the order in which they were asked for."""

    @model_validator(mode="after")
    def _has_equal_lengths(self) -> "ServingLoad":
        if len(self.credits) != len(self.warm) or self.cold > len(self.waiting):
            raise ValueError("expected a credit for each network in memory, and no more cold requests than wait")
        if self.deadlines_s and len(self.deadlines_s) != len(self.waiting):
            raise ValueError("expected a deadline for each request that waits, or none")
        return self

    @property
    def seen(self) -> tuple[object, ...]:
        """Return what others should hear of soon if it changes."""
        return self.running, self.waiting, self.cold, tuple(sorted(self.warm)), self.loading, self.wanted

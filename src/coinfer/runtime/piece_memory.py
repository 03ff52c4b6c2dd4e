"""Opened pieces of networks in memory, within a limit; which of them go is `physics.loading`'s rule.

A network's weights count once for all its pieces, as these share them; each piece adds the rearranged copy of its own
weights that an engine keeps. Pieces are loaded one at a time. While pieces that are in use fill the memory, one more
may be loaded beyond the limit; the next one waits until some are free again.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from coinfer.physics.loading import Loaded, credit, evicted

T = TypeVar("T")
MAX_KNOWN = 1024
"""Pieces of which it is known what loading them took."""


class PagedWeights(Mapping[str, np.ndarray]):
    """Weights of a network that can leave memory, and are read again when they are asked for.

    Args:
        values: by name.
        reload: reads the same values again; may take seconds.
    """

    def __init__(self, values: Mapping[str, np.ndarray], reload: Callable[[], Mapping[str, np.ndarray]]):
        self.nbytes = {name: value.nbytes for name, value in values.items()}
        """Size of each."""
        self._values: Mapping[str, np.ndarray] | None = values
        self._reload = reload
        self._lock = threading.Lock()

    def drop(self) -> None:
        """Let them leave memory; arrays that others hold stay."""
        self._values = None

    def __getitem__(self, name: str) -> np.ndarray:
        with self._lock:
            values = self._values
            if values is None:
                self._values = values = self._reload()
        return values[name]

    def __contains__(self, name: object) -> bool:
        return name in self.nbytes

    def __iter__(self) -> Iterator[str]:
        return iter(self.nbytes)

    def __len__(self) -> int:
        return len(self.nbytes)


def nbytes(weights: Mapping[str, np.ndarray], name: str) -> int:
    """Return the size of a weight, without reading it.

    Args:
        weights: of a network.
        name: of the weight.
    """
    return weights.nbytes[name] if isinstance(weights, PagedWeights) else weights[name].nbytes


class Owner:
    """A network whose pieces are in memory.

    Args:
        weights: are dropped once no piece is left, if they are `PagedWeights`; others stay and count nothing.
    """

    def __init__(self, weights: Mapping[str, np.ndarray]):
        self._paged = weights if isinstance(weights, PagedWeights) else None
        self.size_bytes = sum(self._paged.nbytes.values()) if self._paged else 0
        self.is_closed = False
        """It is served no longer."""

    def drop(self) -> None:
        """Let the weights leave memory."""
        if self._paged is not None:
            self._paged.drop()


class PieceKey(NamedTuple):
    """Names a piece."""

    owner: Owner
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class MemoryReport(NamedTuple):
    """The state of a memory, and what happened in it since the start."""

    used_bytes: float
    limit_bytes: float
    pieces: int
    loads: int
    load_s: float
    """Sum over all loads."""
    evictions: int


class MemoryUse(NamedTuple):
    """What is known of a network in a memory."""

    size_bytes: float
    """That it takes with its largest piece."""
    load_s: float
    """What loading that piece took last."""
    credit: float | None
    """How far it is from eviction, over all its bytes: `physics.loading.credit` of its piece that would go last, above
    that of what was evicted last. None if no piece is in memory."""


class _Known(NamedTuple):
    """A piece that was loaded once, and may be gone."""

    size_bytes: float
    load_s: float
    """What loading it took last."""


class _Piece(Generic[T]):
    """A piece that is loaded or being loaded."""

    def __init__(self) -> None:
        self.future: Future[T] = Future()
        self.loaded: Loaded | None = None
        self.holds = 0


class PieceMemory(Generic[T]):
    """Pieces by key, from any number of threads.

    Args:
        limit_bytes: of all pieces and their networks' weights.
        most: pieces at a time.
        clock: returns seconds.
    """

    def __init__(self, limit_bytes: float, most: int, clock: Callable[[], float] = time.monotonic):
        self.limit_bytes = limit_bytes
        self._most = most
        self._clock = clock
        self._pieces: dict[PieceKey, _Piece[T]] = {}
        """The least recently used first."""
        self._floor = 0.0
        self._known: dict[PieceKey, _Known] = {}
        self._loads, self._loads_s, self._evictions = 0, 0.0, 0
        self._changed = threading.Condition()
        """Guards all of these."""
        self._loading = threading.Lock()

    def get(self, key: PieceKey, size_bytes: int, open_: Callable[[], T], *, hold: bool = False) -> T:
        """Return a piece; load it if it is not in memory. Threads that ask meanwhile wait for the same load.

        Args:
            key: of the piece.
            size_bytes: that the piece takes beside its network's weights.
            open_: opens it.
            hold: whether to keep it in memory until `release`.
        """
        with self._changed:
            piece = self._pieces.get(key)
            is_new = piece is None
            if piece is None:
                piece = self._pieces[key] = _Piece()
            piece.holds += hold
        if is_new:
            self._load(key, piece, size_bytes, open_)
        opened = piece.future.result()
        self._use(key)
        return opened

    def hold(self, key: PieceKey) -> bool:
        """Keep a piece in memory until `release`; return false if it is not there.

        Args:
            key: of the piece.
        """
        with self._changed:
            piece = self._pieces.get(key)
            if piece is None or piece.loaded is None:
                return False
            piece.holds += 1
        self._use(key)
        return True

    def release(self, key: PieceKey) -> None:
        """End one `hold` of a piece.

        Args:
            key: of the piece.
        """
        with self._changed:
            piece = self._pieces.get(key)
            if piece is not None and piece.holds > 0:
                piece.holds -= 1
                if key.owner.is_closed and not piece.holds:
                    del self._pieces[key]
                    self._drop_unused(key.owner)
                self._evict(self._used_bytes() - self.limit_bytes)
                self._changed.notify_all()

    def has(self, key: PieceKey) -> bool:
        """Return true if a piece is in memory.

        Args:
            key: of the piece.
        """
        piece = self._pieces.get(key)
        return piece is not None and piece.loaded is not None

    def cold(self, owner: Owner) -> dict[PieceKey, float]:
        """Return a network's pieces that were in memory once and are not now, with the seconds that loading them took.

        Args:
            owner: the network.
        """
        with self._changed:
            known = self._known.items()
            return {key: one.load_s for key, one in known if key.owner is owner and not self.has(key)}

    def uses(self) -> dict[Owner, MemoryUse]:
        """Return what is known of each network of which a piece was ever loaded."""
        with self._changed:
            known: dict[Owner, dict[PieceKey, _Known]] = {}
            for key, one in self._known.items():
                known.setdefault(key.owner, {})[key] = one
            return {owner: self._use_of(owner, own) for owner, own in known.items()}

    def _use_of(self, owner: Owner, own: Mapping[PieceKey, _Known]) -> MemoryUse:
        largest = max(own.values(), key=lambda one: one.size_bytes)
        pieces = (self._pieces.get(key) for key in own)
        held = [piece.loaded for piece in pieces if piece is not None and piece.loaded is not None]
        size_bytes = owner.size_bytes + largest.size_bytes
        credits = [(one.credit - self._floor) * one.size_bytes / size_bytes for one in held]
        return MemoryUse(size_bytes, largest.load_s, max(credits, default=None))

    def forget(self, owner: Owner) -> None:
        """Drop all pieces of a network that is served no longer; those in use go once they are released.

        Args:
            owner: the network.
        """
        with self._changed:
            owner.is_closed = True
            self._known = {key: one for key, one in self._known.items() if key.owner is not owner}
            for key in [
                key for key, one in self._pieces.items() if key.owner is owner and one.loaded and not one.holds
            ]:
                del self._pieces[key]
            self._drop_unused(owner)
            self._changed.notify_all()

    def report(self) -> MemoryReport:
        """Return the state now."""
        with self._changed:
            used_bytes = self._used_bytes()
            loads = self._loads, self._loads_s
            return MemoryReport(used_bytes, self.limit_bytes, self._count(), *loads, self._evictions)

    def _load(self, key: PieceKey, piece: _Piece[T], size_bytes: int, open_: Callable[[], T]) -> None:
        with self._loading:
            try:
                self._make_room(key.owner, size_bytes)
                began_s = self._clock()
                opened = open_()
            except BaseException as error:
                with self._changed:
                    self._pieces.pop(key, None)
                    self._drop_unused(key.owner)
                piece.future.set_exception(error)
                return
            with self._changed:
                took_s, size_bytes = self._clock() - began_s, max(size_bytes, 1)
                self._loads, self._loads_s = self._loads + 1, self._loads_s + took_s
                self._known[key] = _Known(size_bytes, took_s)
                if len(self._known) > MAX_KNOWN:
                    del self._known[next(iter(self._known))]
                piece.loaded = Loaded(size_bytes, took_s, credit(self._floor, took_s, size_bytes))
            piece.future.set_result(opened)

    def _use(self, key: PieceKey) -> None:
        with self._changed:
            piece = self._pieces.pop(key, None)
            if piece is not None:
                self._pieces[key] = piece  # the most recently used stands last
                if piece.loaded is not None:
                    now = credit(self._floor, piece.loaded.load_s, piece.loaded.size_bytes)
                    piece.loaded = piece.loaded._replace(credit=now)

    def _make_room(self, owner: Owner, size_bytes: int) -> None:
        """Evict until a piece fits; wait while what is in use alone exceeds the limit."""
        with self._changed:
            while True:
                shared = any(key.owner is owner and piece.loaded for key, piece in self._pieces.items())
                needed_bytes = size_bytes + (0 if shared else owner.size_bytes)
                self._evict(self._used_bytes() + needed_bytes - self.limit_bytes)
                while self._count() >= self._most and self._evict(1.0):
                    pass
                if self._used_bytes() <= self.limit_bytes:
                    return
                self._changed.wait()

    def _evict(self, needed_bytes: float) -> bool:
        """Evict pieces that are not in use until so many bytes are free; return true if any was evicted."""
        target_bytes, is_evicted = self._used_bytes() - needed_bytes, False
        while self._used_bytes() > target_bytes:
            loaded = {key: piece.loaded for key, piece in self._pieces.items() if piece.loaded is not None}
            in_use = {key for key, piece in self._pieces.items() if piece.holds}
            gone = evicted(loaded, 1.0, in_use)
            if not gone:
                break
            del self._pieces[gone[0]]
            self._floor = max(self._floor, loaded[gone[0]].credit)
            self._evictions += 1
            self._drop_unused(gone[0].owner)
            is_evicted = True
        return is_evicted

    def _drop_unused(self, owner: Owner) -> None:
        if all(key.owner is not owner for key in self._pieces):
            owner.drop()

    def _count(self) -> int:
        return sum(piece.loaded is not None for piece in self._pieces.values())

    def _used_bytes(self) -> float:
        """Return the bytes of all pieces, and of their networks' weights once each."""
        loaded = {key: piece.loaded for key, piece in self._pieces.items() if piece.loaded is not None}
        owners = {key.owner for key in loaded}
        return sum(one.size_bytes for one in loaded.values()) + sum(owner.size_bytes for owner in owners)

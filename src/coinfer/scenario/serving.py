"""The part of a world that says how its servers batch requests and which networks they hold in memory.

Letters are those of `world`; P pieces of networks (what an option leaves to a server), W the largest batch.
"""

from typing import NamedTuple

import numpy as np


class Serving(NamedTuple):
    """Servers that follow `physics.batching` and `physics.loading`; each has one worker, and a finite capacity."""

    option_piece: np.ndarray
    """[X, C, O] int, what the option leaves to a server; any if that is nothing."""
    piece_network: np.ndarray
    """[P] int below X, the network of which it is a part."""
    batch_ratio: np.ndarray
    """[X, N, W] time of a batch of 1 .. W over that of a single request; infinite for sizes that are never taken."""
    memory_bytes: np.ndarray
    """[N] that networks may take on a server; infinite if it holds all of them from the beginning."""
    network_bytes: np.ndarray
    """[X] memory that a network takes, above 0. Servers hold whole networks, whatever piece they compute."""
    load_s: np.ndarray
    """[X, N] time of loading a network."""

    @property
    def loads(self) -> bool:
        """Return whether any server may have to load a network."""
        return bool(np.isfinite(self.memory_bytes).any())

    @property
    def max_batch(self) -> int:
        """Return W, the largest batch of any server."""
        return self.batch_ratio.shape[-1]

"""Replay memory, on the device where the learning is done.

Every learner has a ring buffer of its own, or several read one. Which steps are sampled follows from the reader's key
and the number of the draw alone (`physics.random`), not from what was drawn before or who else draws: a resumed run
draws what the uninterrupted one would have drawn, and a learner draws the same beside any number of others.
"""

import torch
from torch import Tensor

from coinfer.physics import random
from coinfer.rl.core.records import Transition


class Replay:
    """R ring buffers of transitions.

    Args:
        capacity: steps that each ring holds; new ones overwrite the oldest.
        like: a transition with shapes [R, W, ..], for its types and shapes; its values do not matter.
    """

    def __init__(self, capacity: int, like: Transition):
        self.capacity, self.rings = capacity, like[0].shape[0]
        self.store: list[Tensor] = [part.new_zeros((self.rings, capacity, *part.shape[2:])) for part in like]
        self.written = 0

    @property
    def filled(self) -> int:
        """Steps in each ring."""
        return min(self.written, self.capacity)

    def add(self, steps: Transition) -> None:
        """Write W steps [R, W, ..] into every ring.

        Raises:
            ValueError: if they are more than a ring holds.
        """
        count = steps[0].shape[1]
        if count > self.capacity:
            raise ValueError(f"{count} records at once do not fit into a replay memory of {self.capacity}")
        start = self.written % self.capacity
        first = min(count, self.capacity - start)
        for store, part in zip(self.store, steps, strict=True):
            store[:, start : start + first] = part[:, :first]
            if first < count:
                store[:, : count - first] = part[:, first:]
        self.written += count

    def sample(self, keys: Tensor, call: int, count: int, ring: Tensor | None = None) -> Transition:
        """Return `count` steps [L, count, ..] for each of L readers, drawn with replacement.

        Args:
            keys: [L] int64 of the readers.
            call: the number of this draw.
            ring: [L] int64, which ring each reader reads; without it, reader l reads ring l.
        """
        drawn = random.bits(random.key(keys, call)[:, None], torch.arange(count, device=keys.device))
        place = random.integer(drawn, self.filled)
        ring = torch.arange(len(keys), device=keys.device) if ring is None else ring
        flat = (place + ring[:, None] * self.capacity).flatten()
        return Transition(
            *(store.flatten(0, 1).index_select(0, flat).unflatten(0, place.shape) for store in self.store)
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a checkpoint must hold, by name."""
        named = zip(Transition._fields, self.store, strict=True)
        return {**{name: store[:, : self.filled] for name, store in named}, "written": torch.tensor(self.written)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` returned."""
        self.written = int(tensors["written"])
        for name, store in zip(Transition._fields, self.store, strict=True):
            store[:, : self.filled] = tensors[name].to(store.device)

"""Memory of past steps, on the device where the learning is done.

Every learner has a ring of its own, or several read one. Which steps are drawn follows from the reader's key and the
number of the draw alone (`physics.random`), not from what was drawn before or who else draws: a resumed run draws
what the uninterrupted one would have drawn, and a learner draws the same beside any number of others.
"""

from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from coinfer.physics import random

Record = TypeVar("Record", bound=NamedTuple)


class Replay:
    """R rings of records, a record being a NamedTuple of tensors.

    Args:
        capacity: records of each ring; the oldest give way.
        like: a record with shapes [R, W, ..]: tells names, types and shapes, its values do not matter.
    """

    def __init__(self, capacity: int, like: Any):
        self.capacity, self.rings = capacity, like[0].shape[0]
        self.kind = type(like)
        self.store: list[Tensor] = [part.new_zeros((self.rings, capacity, *part.shape[2:])) for part in like]
        self.written = 0

    @property
    def filled(self) -> int:
        """Records in each ring."""
        return min(self.written, self.capacity)

    def add(self, record: Any) -> None:
        """Puts W records [R, W, ..] into every ring."""
        count = record[0].shape[1]
        if count > self.capacity:
            raise ValueError(f"{count} records at once do not fit into a replay memory of {self.capacity}")
        start = self.written % self.capacity
        first = min(count, self.capacity - start)
        for store, part in zip(self.store, record, strict=True):
            store[:, start : start + first] = part[:, :first]
            if first < count:
                store[:, : count - first] = part[:, first:]
        self.written += count

    def sample(self, keys: Tensor, call: int, count: int, ring: Tensor | None = None) -> Any:
        """`count` records [L, count, ..] for each of L readers, drawn with replacement.

        Args:
            keys: [L] int64 of the readers.
            call: the how manieth draw this is.
            ring: [L] int64, which ring each reads; without it, ring l.
        """
        drawn = random.bits(random.key(keys, call)[:, None], torch.arange(count, device=keys.device))
        place = random.below(drawn, self.filled)
        ring = torch.arange(len(keys), device=keys.device) if ring is None else ring
        flat = (place + ring[:, None] * self.capacity).flatten()
        return self.kind(*(store.flatten(0, 1).index_select(0, flat).unflatten(0, place.shape) for store in self.store))

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is to be kept, by name."""
        kept = {name: store[:, : self.filled] for name, store in zip(self.kind._fields, self.store, strict=True)}
        return {**kept, "written": torch.tensor(self.written)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """What `tensors` gave."""
        self.written = int(tensors["written"])
        for name, store in zip(self.kind._fields, self.store, strict=True):
            store[:, : self.filled] = tensors[name].to(store.device)

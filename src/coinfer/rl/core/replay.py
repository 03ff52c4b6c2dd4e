"""Replay memory, on the device that learns.

Every learner has a ring buffer of its own, or several read the same one. The sampled places depend on the reader's key
and the number of the draw only (`physics.random`), not on earlier draws or other readers: a resumed run draws the same
as an uninterrupted one, and a learner draws the same beside any number of others.
"""

from typing import Generic

import torch
from torch import Tensor

from coinfer.physics import random
from coinfer.rl.core.records import Record


class Replay(Generic[Record]):
    """R ring buffers of transitions, or of labels.

    Args:
        capacity: steps that each ring holds; new ones overwrite the oldest.
        like: a transition or label [R, W, ..] that gives number types, shapes and device; its values are not used.
    """

    def __init__(self, capacity: int, like: Record):
        self.capacity, self.rings, self.kind = capacity, like[0].shape[0], type(like)
        self.store: list[Tensor] = [part.new_zeros((self.rings, capacity, *part.shape[2:])) for part in like]
        self.written = 0

    @property
    def size(self) -> int:
        """Return the number of steps in each ring."""
        return min(self.written, self.capacity)

    def add(self, steps: Record) -> None:
        """Write steps into every ring, over the oldest ones if it is full.

        Args:
            steps: [R, W, ..] W steps for each ring.

        Raises:
            ValueError: if W is larger than the capacity.
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

    def sample(self, keys: Tensor, call: int, count: int, ring: Tensor | None = None) -> Record:
        """Return a batch of steps [L, count, ..], drawn uniformly with replacement; the memory must not be empty.

        Args:
            keys: [L] int64 keys of the readers.
            call: number of this draw.
            count: steps for each reader.
            ring: [L] int64 number of the ring that each reader reads; None if reader l reads ring l.
        """
        drawn = random.bits(random.key(keys, call)[:, None], torch.arange(count, device=keys.device))
        place = random.integer(drawn, self.size)
        ring = torch.arange(len(keys), device=keys.device) if ring is None else ring
        flat = (place + ring[:, None] * self.capacity).flatten()
        return self.kind(*(store.flatten(0, 1).index_select(0, flat).unflatten(0, place.shape) for store in self.store))

    def tensors(self) -> dict[str, Tensor]:
        """Return the filled part of the rings and the write count, by name; views, not copies."""
        named = zip(self.kind._fields, self.store, strict=True)
        return {**{name: store[:, : self.size] for name, store in named}, "written": torch.tensor(self.written)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Set the contents to saved ones.

        Args:
            tensors: what `tensors` returned, of a memory of the same capacity; copied.
        """
        self.written = int(tensors["written"])
        for name, store in zip(self.kind._fields, self.store, strict=True):
            store[:, : self.size] = tensors[name].to(store.device)

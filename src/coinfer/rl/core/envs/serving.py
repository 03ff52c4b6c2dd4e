"""Servers that batch and load as an environment whose tasks are decided one after the other, for the pointer policy.

What a learner observes of a task depends on what the tasks before it chose. So `play` makes a whole slot: it asks for
the choice of each place in turn, and returns the observation with the numbers of all choices filled in, as the choices
were made. `observe` returns it with those of the world only, of which a state's value is made.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from coinfer.envs import core, offload
from coinfer.envs.rewards import Reward
from coinfer.evaluate.deciders import merged, parts
from coinfer.evaluate.oracles import Decider
from coinfer.evaluate.serving_slots import Slots, seen_servers
from coinfer.evaluate.serving_worlds import PlainWorlds
from coinfer.physics import random
from coinfer.policies.heuristics.demand import DemandWeights, Memory, Sent
from coinfer.policies.heuristics.server_times import Asked
from coinfer.policies.learned.pointer.features import COLUMNS, WORLD
from coinfer.rl.core.envs.options import task_metrics
from coinfer.rl.core.records import Observation
from coinfer.scenario.world import OffloadWorld


class ServingState(NamedTuple):
    """Worlds, and what their deciders remember of them (`policies.heuristics.demand.Memory`)."""

    world: core.State
    saved: Tensor
    """[B, D, X] float64"""
    placed: Tensor
    """[B, D, N, X] float64"""
    sent: Tensor
    """[B, D, S, K / D, 6] float64, server (-1 for none) and the first fields of `Asked`, of the slots since the servers
    were seen."""


Choose = Callable[[Tensor, Tensor, int], Tensor]
"""From the choices [L, W * D, C, COLUMNS] of each decider's task at a place, which of them exist [L, W * D, C], and the
number of the place, to choices [L, W * D]."""


_SENT = 6
"""Numbers of a request in `ServingState.sent`."""


def _request(row: list[float]) -> Sent:
    server, ready_s, service_s, piece, network, deadline_s = row
    return Sent(int(server), Asked(ready_s, service_s, int(piece), int(network), deadline_s))


class Played(NamedTuple):
    """A slot."""

    observation: Observation
    action: Tensor
    """[L, W, K] int64"""
    reward: Tensor
    """[L, W]"""
    final: ServingState
    """State that the slot led to, before any reset."""
    state: ServingState
    """The same after it."""
    truncated: Tensor
    """[L, W] true if the time limit ended the episode."""
    metrics: dict[str, Tensor]
    """Figures [L, W] for the learning curves, by name."""


class ServingEnv:
    """W worlds for each of L learners; they begin and end their episodes together.

    Args:
        world: the compiled scenario, whose servers batch or load.
        reward: from outcome and draws to rewards [B] of slots.
        worlds: W
        weights: of the rule that the policy corrects.
        scale_s: of the policy.
        deciders: D with one policy, who share out the tasks of each slot and do not know what the others send
            (`evaluate.deciders`).
    """

    def __init__(
        self,
        world: OffloadWorld,
        reward: Reward,
        worlds: int,
        weights: DemandWeights,
        scale_s: float,
        deciders: int = 1,
    ):
        self.world, self.reward, self.worlds, self.weights, self.scale_s = world, reward, worlds, weights, scale_s
        self.deciders = deciders
        self.tables = offload.load(world)
        self.known = PlainWorlds(self.tables)

    def reset(self, seeds: Tensor) -> tuple[ServingState, Observation]:
        """Return the first state and its observation.

        Args:
            seeds: [L] int64, one for each learner; its worlds depend on nothing else.
        """
        worlds = random.key(seeds[:, None], torch.arange(self.worlds, device=seeds.device))
        state = self._first(worlds.flatten())
        return state, self.observe(state)

    def _first(self, seeds: Tensor) -> ServingState:
        edge, networks = self.tables.edge.edge, len(self.known.size_bytes)
        servers = edge.servers
        nothing = torch.zeros((len(seeds), self.deciders, networks), dtype=torch.float64)
        placed = nothing[:, :, None].expand(-1, -1, servers, -1)
        shape = (len(seeds), self.deciders, edge.staleness_slots, -(-edge.tasks // self.deciders), _SENT)
        sent = torch.full(shape, -1.0, dtype=torch.float64)
        return ServingState(offload.reset(self.tables, seeds), nothing, placed, sent)

    def observe(self, state: ServingState) -> Observation:
        """Return what the learners see of a state before its tasks are decided.

        Args:
            state: of L * W worlds.
        """
        shared = self._slots(state)
        rows = np.zeros((len(state.saved), self.world.edge.tasks, self.known.choices, COLUMNS), np.float32)
        return self._observation(shared, rows, self._world_rows(shared), np.ones(rows.shape[:3], bool))

    def play(self, state: ServingState, choose: Choose, teacher: Decider | None = None) -> Played:
        """Decide the tasks of a slot, simulate it, and begin new episodes if the time limit is reached.

        Args:
            state: the state before the slot; unchanged.
            choose: called for each place.
            teacher: decides in its place, if there is one; it may remember slots, so it must see all of an episode.
        """
        shared = self._slots(state)
        taught = teacher(state.world, offload.observe(self.tables, state.world)) if teacher else None
        world = self._world_rows(shared)
        rows = np.zeros((len(state.saved), self.world.edge.tasks, self.known.choices, COLUMNS), np.float32)
        mask = np.ones(rows.shape[:3], bool)
        action = np.zeros(rows.shape[:2], np.int64)
        first = np.cumsum([np.zeros(len(rows), int), *self._counts(shared)], axis=0)
        """[D + 1, B] places of the deciders before"""
        for place in range(max(slots.places for slots in shared)):
            scored = [(slots, slots.scored(place)) for slots in shared]
            given = np.stack([slots.rows(place, some, self.scale_s) for slots, some in scored], 1)
            exists = np.stack([slots.mask(some) for slots, some in scored], 1)
            exists |= ~exists.any(-1, keepdims=True)
            chosen = np.zeros(exists.shape[:2], np.int64)
            if taught is None:
                chosen[:] = (
                    choose(self._for_choice(given), self._for_choice(exists), place).numpy().reshape(chosen.shape)
                )
            for d, (slots, some) in enumerate(scored):
                if taught is not None:
                    chosen[[*some], d] = [slots.number(b, place, one, taught) for b, one in some.items()]
                at = first[d, [*some]] + place
                for part, values in ((rows, given), (mask, exists), (action, chosen)):
                    part[[*some], at] = values[[*some], d]
                slots.place(place, {b: one[chosen[b, d]] for b, one in some.items()})
        seen = self._observation(shared, rows, world, mask)
        return self._step(state, shared, seen, self._by_learner(torch.from_numpy(action)))

    def first_places(self, observation: Observation, places: int) -> Observation:
        """Return an observation with fewer places for tasks.

        Args:
            observation: of this environment.
            places: number of places that stay, the first ones.
        """
        features, mask, task_mask = observation
        length = mask.shape[-1] * COLUMNS * places
        kept = torch.cat((features[..., :length], features[..., -WORLD:]), -1)
        return Observation(kept, mask[..., :places, :], task_mask[..., :places])

    def _slots(self, state: ServingState) -> list[Slots]:
        """Return the slot of each decider."""
        observation = offload.observe(self.tables, state.world)
        shared = parts(state.world, observation, self.deciders)
        seen = seen_servers(self.known, state.world)
        return [
            Slots(self.known, *part, self._memories(state, number), (self.weights,), seen)
            for number, part in enumerate(shared)
        ]

    def _memories(self, state: ServingState, number: int) -> list[Memory]:
        remembered = (part[:, number].tolist() for part in (state.saved, state.placed, state.sent))
        return [
            Memory(saved, placed, [[_request(row) for row in slot if row[0] >= 0] for slot in sent])
            for saved, placed, sent in zip(*remembered, strict=True)
        ]

    def _world_rows(self, shared: list[Slots]) -> np.ndarray:
        """Return the numbers of the worlds, [B, WORLD]: means over the deciders."""
        return np.stack([slots.world_rows(self.scale_s) for slots in shared]).mean(0)

    def _observation(self, shared: list[Slots], rows: np.ndarray, world: np.ndarray, mask: np.ndarray) -> Observation:
        there = torch.arange(rows.shape[1]) < torch.from_numpy(self._counts(shared).sum(0))[:, None]
        features = np.concatenate((rows.reshape(len(rows), -1), world), 1)
        assert features.shape[1] == rows[0].size + WORLD
        return Observation(*map(self._by_learner, (torch.from_numpy(features), torch.from_numpy(mask), there)))

    def _step(self, state: ServingState, shared: list[Slots], seen: Observation, action: Tensor) -> Played:
        decision = merged([slots.decision() for slots in shared])
        stepped = offload.step(self.tables, state.world, decision, self.reward)
        saved, placed = (
            torch.tensor([[memory[part] for memory in slots.memories] for slots in shared], dtype=torch.float64)
            for part in (0, 1)
        )
        sent = torch.full_like(state.sent, -1.0)
        for d, slots in enumerate(shared):
            for b, memory in enumerate(slots.memories):
                for ago, slot in enumerate(memory.sent):
                    for number, one in enumerate(slot):
                        row = [one.server, *one.asked[: _SENT - 1]]
                        sent[b, d, ago, number] = torch.tensor(row, dtype=torch.float64)
        after = final = ServingState(stepped.state, saved.transpose(0, 1), placed.transpose(0, 1), sent)
        if bool(stepped.info.truncated.any()):
            after = self._first(core.next_seeds(stepped.state.seed))
        metrics = task_metrics(stepped.outcome.latency_s, stepped.outcome.in_time, state.world.draws.task_mask)
        reward, truncated = (self._by_learner(part) for part in (stepped.reward, stepped.info.truncated))
        by_learner = {name: self._by_learner(part) for name, part in metrics.items()}
        return Played(seen, action, reward, final, after, truncated, by_learner)

    def _counts(self, shared: list[Slots]) -> np.ndarray:
        """Return how many tasks each decider has, [D, B]."""
        return np.array([[len(slot.tasks) for slot in slots.slots] for slots in shared])

    def _for_choice(self, part: np.ndarray) -> Tensor:
        """Return [L, W * D, ..] of [B, D, ..]."""
        return self._by_learner(torch.from_numpy(part)).flatten(1, 2)

    def _by_learner(self, part: Tensor) -> Tensor:
        return part.unflatten(0, (-1, self.worlds))

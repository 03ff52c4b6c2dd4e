"""The slots of many worlds decided task after task: the first task of all worlds, then the second, and so on.

Where what is known of the servers is some slots old, the decider adds what it has sent since: unless something went
otherwise than expected, that is all that happened.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from coinfer.envs import core, offload, serving
from coinfer.envs.core import State
from coinfer.evaluate import serving_oracles
from coinfer.evaluate.oracles import Decider, Oracle
from coinfer.evaluate.serving_worlds import Numbered, PlainWorlds
from coinfer.policies.heuristics.demand import (
    LOADS,
    DemandWeights,
    Memory,
    Scored,
    SeenServers,
    Sent,
    Slot,
    batch_weights,
    best,
)
from coinfer.policies.heuristics.server_times import Asked
from coinfer.policies.learned.forecast import Forecast
from coinfer.policies.learned.pointer.features import COLUMNS, Scores, choice_rows, world_row
from coinfer.scenario.world import OffloadWorld
from coinfer.types import OffloadDecision, OffloadObservation

LOADS_AT_HOME = DemandWeights(3.2, 9.6, 80.0, 0.021, 0.0086, 0.0078, loads_at_home=True)
"""Weights as `demand.LOADS` for four deciders who have networks loaded at home only;
found with memory for four fifths of all."""

FORESIGHT = DemandWeights(2.5, 3.0, 8.0, 0.045, 0.024)
"""The same for the rule that knows the demand to come, the best of five on eight seeds."""


class Slots:
    """One slot of B worlds.

    Args:
        known: reads the worlds.
        state: at the beginning of the slot.
        observation: of that state.
        memories: [B] of the slots before; changed to what they are after this one.
        weights: of the rule; with several, the worlds are that many equal parts, each with weights of its own.
        seen: [B] the servers, if other deciders see the same (`seen_servers`).
    """

    def __init__(
        self,
        known: PlainWorlds,
        state: State,
        observation: OffloadObservation[Tensor],
        memories: Sequence[Memory],
        weights: Sequence[DemandWeights],
        seen: Sequence[SeenServers] | None = None,
    ):
        slot_s, self.stale = known.tables.edge.edge.slot_s, known.tables.edge.edge.staleness_slots
        self.memories = memories
        seen = seen or seen_servers(known, state)
        owns = [weights[b * len(weights) // len(seen)] for b in range(len(seen))]
        self.numbered: list[Numbered] = known.tasks(state, observation, own=True)
        self.slots = [
            Slot(
                seen[b].now(memory.sent),
                [task for _, task in self.numbered[b]],
                memory,
                owns[b],
                slot_s,
                known.crowded_home if owns[b].loads_at_home else known.home,
            )
            for b, memory in enumerate(memories)
        ]
        for memory in memories:
            memory.sent.insert(0, [])
            del memory.sent[self.stale :]
        self.choices = known.choices
        self.option = torch.zeros_like(state.draws.device)
        self.server = torch.full_like(self.option, -1)

    @property
    def places(self) -> int:
        """Return the largest number of tasks of a world."""
        return max(map(len, self.numbered))

    def scored(self, place: int) -> dict[int, list[Scored]]:
        """Return the choices of the task at a place, by world, of the worlds that have one.

        Args:
            place: number in the order of decisions; the tasks before are placed.
        """
        return {b: slot.scored(place) for b, slot in enumerate(self.slots) if place < len(slot.tasks)}

    def rows(self, place: int, scored: dict[int, list[Scored]], scale_s: float) -> np.ndarray:
        """Return the numbers of these choices, [B, C, COLUMNS] float32; 0 where there is none.

        Args:
            place: as in `scored`.
            scored: from there.
            scale_s: of the policy.
        """
        rows = np.zeros((len(self.slots), self.choices, COLUMNS), np.float32)
        for b, some in scored.items():
            rows[b, : len(some)] = choice_rows(self.slots[b], place, some, scale_s)
        return rows

    def mask(self, scored: dict[int, list[Scored]]) -> np.ndarray:
        """Return which of these choices there are, [B, C] bool.

        Args:
            scored: from `scored`.
        """
        count = np.array([len(scored.get(b, ())) for b in range(len(self.slots))])
        return np.arange(self.choices) < count[:, None]

    def world_rows(self, scale_s: float) -> np.ndarray:
        """Return the numbers of the worlds, [B, WORLD] float32, before anything is decided.

        Args:
            scale_s: of the policy.
        """
        return np.array([world_row(slot, scale_s) for slot in self.slots], np.float32)

    def place(self, place: int, chosen: dict[int, Scored]) -> None:
        """Place the tasks at a place.

        Args:
            place: as in `scored`.
            chosen: one of each world's choices.
        """
        for b, one in chosen.items():
            self.slots[b].place(place, one)
            k, task = self.numbered[b][place]
            option, n, ready_s, service_s, piece, network = one.choice
            self.option[b, k], self.server[b, k] = option, n
            if self.stale and n >= 0:
                asked = Asked(ready_s, service_s, piece, network, task.deadline_s)
                self.memories[b].sent[0].append(Sent(n, asked))

    def number(self, b: int, place: int, scored: Sequence[Scored], decision: OffloadDecision[Tensor]) -> int:
        """Return which of a task's choices a decision takes; the first if it takes none of them.

        Args:
            b: number of the world.
            place: of the task.
            scored: its choices.
            decision: [B, K]
        """
        k = self.numbered[b][place][0]
        wanted = int(decision.option[b, k]), int(decision.server[b, k])
        ways = [(one.choice.option, one.choice.server) for one in scored]
        return ways.index(wanted) if wanted in ways else 0

    def decision(self) -> OffloadDecision[Tensor]:
        """Return what was decided."""
        return OffloadDecision(self.option, self.server)


def seen_servers(known: PlainWorlds, state: State) -> list[SeenServers]:
    """Return the servers of every world as its deciders see them, [B].

    Args:
        known: reads the worlds.
        state: at the beginning of a slot.
    """
    slot_s, stale = known.tables.edge.edge.slot_s, known.tables.edge.edge.staleness_slots
    return [SeenServers(servers, stale * slot_s, slot_s) for servers in known.servers(serving.known_queues(state))]


def demand_greedy(*weights: DemandWeights) -> Oracle:
    """Return the rule that remembers demand (`policies.heuristics.demand`).

    Args:
        weights: as in `Slots`.
    """
    return lambda tables: _decider(tables, weights, _by_rule)


def _by_rule(slots: Slots, place: int) -> dict[int, Scored]:
    return {b: best(some) for b, some in slots.scored(place).items()}


def demand_clairvoyant(weights: DemandWeights) -> Oracle:
    """Return the same rule with the demand of the future in place of that of the past, which no policy can know.

    Args:
        weights: of the rule; `memory_s` is how far it looks ahead.
    """

    def oracle(tables: offload.Tables) -> Decider:
        coming: list[list[list[list[float]]]] = []

        def foresee(state: State, _: Sequence[Memory]) -> list[list[float]]:
            if bool((state.slot == 0).all()):
                saved_s = saved_by_slot(tables, state.seed)
                coming[:] = coming_demand(saved_s, tables.edge.edge.slot_s, weights.memory_s).tolist()
            return coming[int(state.slot[0])]  # pyright: ignore[reportReturnType]

        return _decider(tables, (weights,), _by_rule, foresee)

    return oracle


def coming_demand(saved_s: Sequence[Tensor], slot_s: float, memory_s: float) -> Tensor:
    """Return what `Memory.saved` would be if it faded towards the future, [slots, B, X].

    Args:
        saved_s: from `saved_by_slot`.
        slot_s: length of a slot.
        memory_s: as in `DemandWeights`.
    """
    keeps = math.exp(-slot_s / memory_s)
    found, ahead = list[Tensor](), torch.tensor(0.0)
    for now_s in reversed(saved_s):
        ahead = keeps * ahead + (1 - keeps) * now_s / slot_s
        found.append(ahead)
    return torch.stack(found[::-1])


def saved_by_slot(tables: offload.Tables, seeds: Tensor) -> list[Tensor]:
    """Return the seconds that servers would save the tasks of each network, if none waited; [B, X] of each slot.

    Args:
        tables: of worlds whose servers batch or load.
        seeds: [B] of their episodes.
    """
    assert tables.serving is not None
    found = list[Tensor]()
    for number in range(tables.edge.edge.slots):
        draws = core.draw(tables.edge, seeds, torch.full_like(seeds, number))
        kind = draws.model * tables.edge.edge.classes + draws.device_class
        device_s, bits = tables.device_s[kind], tables.upload_bits[kind]
        sent_s = device_s + bits / draws.link_bps.amax(-1, keepdim=True)
        here_s = torch.where(tables.exists[kind] & (bits == 0), device_s, torch.inf).amin(-1)
        there_s = torch.where(bits > 0, sent_s + tables.server_s[kind].amin(-1), torch.inf).amin(-1)
        saved_s = (here_s - there_s).clamp(min=0) * draws.task_mask
        nothing = torch.zeros((len(seeds), tables.serving.load_s.shape[1]), dtype=saved_s.dtype)
        found.append(nothing.scatter_add(-1, draws.model, saved_s))
    return found


def rule_weights(world: OffloadWorld) -> DemandWeights:
    """Return weights of that rule for a world.

    Args:
        world: whose servers batch or load.
    """
    assert world.serving is not None
    return LOADS if world.serving.loads else batch_weights(world.edge.slot_s)


def rules(world: OffloadWorld) -> dict[str, Oracle]:
    """Return the rules for a world whose servers batch or load, by their names on the command line.

    Args:
        world: the compiled scenario.
    """
    weights = rule_weights(world)
    return {
        "serving-greedy": serving_oracles.serving_greedy,
        "demand-greedy": demand_greedy(weights),
        "demand-at-home": demand_greedy(replace(weights, at_home=True)),
    }


def pointer(scores: Scores, weights: DemandWeights, scale_s: float) -> Oracle:
    """Return a pointer policy (`policies.learned.pointer`).

    Args:
        scores: of its network.
        weights: of the rule that it corrects.
        scale_s: of the policy.
    """

    def choose(slots: Slots, place: int) -> dict[int, Scored]:
        scored = slots.scored(place)
        found = np.where(slots.mask(scored), scores(slots.rows(place, scored, scale_s)), -np.inf).argmax(-1)
        return {b: some[found[b]] for b, some in scored.items()}

    return lambda tables: _decider(tables, (weights,), choose)


def forecast(demand: Forecast, weights: DemandWeights) -> Oracle:
    """Return the rule with a forecast of demand in place of that of the past (`policies.learned.forecast`).

    Args:
        demand: of its network.
        weights: of the rule.
    """

    def foresee(_: State, memories: Sequence[Memory]) -> list[list[float]]:
        return demand(np.array([memory.faded for memory in memories], np.float32)).tolist()

    return lambda tables: _decider(tables, (weights,), _by_rule, foresee)


def _decider(
    tables: offload.Tables,
    weights: Sequence[DemandWeights],
    choose: Callable[[Slots, int], dict[int, Scored]],
    foresee: Callable[[State, Sequence[Memory]], list[list[float]]] | None = None,
) -> Decider:
    known, memories = PlainWorlds(tables), list[Memory]()

    def decide(state: State, observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
        if len(memories) != len(state.slot) or bool((state.slot == 0).all()):
            memories[:] = [known.no_memory(forecasts=foresee is not None) for _ in state.slot]
        slots = Slots(known, state, observation, memories, weights)
        for memory, saved in zip(memories, foresee(state, memories), strict=True) if foresee else ():
            memory.saved[:] = saved
        for place in range(slots.places):
            slots.place(place, choose(slots, place))
        return slots.decision()

    return decide

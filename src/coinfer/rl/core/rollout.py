"""Many policies in the same worlds at once: what each of them came to.

On a GPU a slot is one CUDA graph, which takes the state from where it left it, as a slot is thousands of short kernels;
players start side by side, each on a stream of its own.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from coinfer.envs import core, offload, rewards
from coinfer.policies.learned import scorer
from coinfer.scenario.world import OffloadWorld


class Totals(NamedTuple):
    """Of P policies, all [P]."""

    latency_s: Tensor
    tasks: Tensor
    late: Tensor


class Game(NamedTuple):
    state: core.State
    totals: Totals


class Player:
    """Plays episodes of one scenario with copies of a scorer.

    Args:
        policies: P copies.
        worlds: W, the same for each of them.
    """

    def __init__(self, world: OffloadWorld, policies: int, worlds: int, slots: int, device: str = "cpu"):
        self.tables = offload.load(world, device)
        self.policies, self.worlds, self.slots = policies, worlds, slots
        self.weights = torch.zeros((policies, scorer.SIZE), device=device)
        self._game: Game | None = None
        self._graph: Any = None
        self._stream: Any = torch.cuda.Stream() if self.tables.edge.device.type == "cuda" else None

    @torch.no_grad()
    def start(self, weights: Tensor, seeds: Tensor) -> None:
        """Begins to play with the weights [P, SIZE] and the episodes [W]."""
        if self._stream is None:
            self.weights = weights
            game = self._begin(seeds)
            for _ in range(self.slots):
                game = self._slot(game)
            self._game = game
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            begun = self._begin(seeds)
            game: Game = self._game or _each(torch.clone, begun)
            if self._game is None:
                self._capture(game)
            self._game = game
            self.weights.copy_(weights)
            _each(torch.Tensor.copy_, game, begun)
            for _ in range(self.slots):
                self._graph.replay()

    def result(self) -> tuple[Tensor, Tensor]:
        """Mean latency and share of late tasks of each policy, both [P]."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
        assert self._game is not None
        totals = self._game.totals
        return totals.latency_s / totals.tasks, totals.late / totals.tasks

    def _begin(self, seeds: Tensor) -> Game:
        zero = torch.zeros(self.policies, device=self.tables.edge.device)
        return Game(offload.reset(self.tables, seeds.repeat(self.policies)), Totals(zero, zero, zero))

    def _slot(self, game: Game) -> Game:
        state, totals = game
        seen = offload.observe(self.tables, state)
        decision = scorer.decide(scorer.unpack(self.weights), seen)
        stepped = offload.step(self.tables, state, decision, rewards.latency)
        there, outcome = state.draws.task_mask, stepped.outcome

        def summed(values: Tensor) -> Tensor:
            return values.reshape(self.policies, -1).sum(-1)

        after = Totals(
            totals.latency_s + summed(outcome.latency_s),
            totals.tasks + summed(there),
            totals.late + summed(there & ~outcome.in_time),
        )
        return Game(stepped.state, after)

    def _capture(self, game: Game) -> None:
        """A slot as a graph that moves `game` on."""

        def slot() -> None:
            _each(torch.Tensor.copy_, game, self._slot(game))

        for _ in range(2):
            slot()
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=self._stream):
            slot()


def _each(function: Any, *values: Any) -> Any:
    """The function of each tensor of nested tuples of one form."""
    if isinstance(values[0], tuple):
        return type(values[0])(*(_each(function, *parts) for parts in zip(*values, strict=True)))
    return function(*values)

"""Rollouts of many policies in the same worlds at once.

A slot is thousands of short kernels. On a GPU they are captured once as a CUDA graph, which is replayed for every slot
and continues from the state that it left; several players run side by side, each on a stream of its own.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from coinfer.envs import core, offload, rewards
from coinfer.policies.learned.scorer import policy as scorer
from coinfer.policies.learned.scorer import weights as scorer_weights
from coinfer.scenario.world import OffloadWorld

Tree = TypeVar("Tree")
"""A tensor, or nested tuples of tensors."""


class Totals(NamedTuple):
    """Sums over the slots and worlds of each of P policies, all [P]."""

    latency_s: Tensor
    tasks: Tensor
    late: Tensor
    """Tasks that missed their deadline."""


class Rollout(NamedTuple):
    """State of a rollout between two slots."""

    state: core.State
    totals: Totals


class Player:
    """A player of episodes of one scenario with P copies of a scorer that have different weights.

    Args:
        world: the compiled scenario.
        policies: P, number of copies.
        worlds: W, number of worlds; the same ones for each copy.
        slots: length of an episode.
        device: PyTorch device of the worlds.
    """

    def __init__(self, world: OffloadWorld, policies: int, worlds: int, slots: int, device: str = "cpu"):
        self.tables = offload.load(world, device)
        self.policies, self.worlds, self.slots = policies, worlds, slots
        self.weights = torch.zeros((policies, scorer_weights.SIZE), device=device)
        self._rollout: Rollout | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream = torch.cuda.Stream() if self.tables.edge.device.type == "cuda" else None

    @torch.no_grad()
    def start(self, weights: Tensor, seeds: Tensor) -> None:
        """Begin to play one episode; on a GPU this returns before it is played.

        Args:
            weights: [P, SIZE] weights of the copies.
            seeds: [W] int64 seeds of the episodes.
        """
        if self._stream is None:
            self.weights = weights
            rollout = self._begin(seeds)
            for _ in range(self.slots):
                rollout = self._slot(rollout)
            self._rollout = rollout
        else:
            self._start_on_gpu(self._stream, weights, seeds)

    def _start_on_gpu(self, stream: torch.cuda.Stream, weights: Tensor, seeds: Tensor) -> None:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            first = self._begin(seeds)
            rollout = self._rollout or _map_tensors(torch.clone, first)
            graph = self._graph or self._capture(rollout)
            self._rollout, self._graph = rollout, graph
            self.weights.copy_(weights)
            _map_tensors(torch.Tensor.copy_, rollout, first)
            for _ in range(self.slots):
                graph.replay()

    def result(self) -> tuple[Tensor, Tensor]:
        """Wait for the end of the episode that `start` began.

        Returns:
            Mean latency in seconds and share of late tasks of each copy, both [P].
        """
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
        assert self._rollout is not None
        totals = self._rollout.totals
        return totals.latency_s / totals.tasks, totals.late / totals.tasks

    def _begin(self, seeds: Tensor) -> Rollout:
        zero = torch.zeros(self.policies, device=self.tables.edge.device)
        return Rollout(offload.reset(self.tables, seeds.repeat(self.policies)), Totals(zero, zero, zero))

    def _slot(self, rollout: Rollout) -> Rollout:
        state, totals = rollout
        observation = offload.observe(self.tables, state)
        decision = scorer.decide(scorer_weights.unpack(self.weights), observation)
        stepped = offload.step(self.tables, state, decision, rewards.latency)
        task_mask, outcome = state.draws.task_mask, stepped.outcome

        def summed(values: Tensor) -> Tensor:
            return values.reshape(self.policies, -1).sum(-1)

        after = Totals(
            totals.latency_s + summed(outcome.latency_s),
            totals.tasks + summed(task_mask),
            totals.late + summed(task_mask & ~outcome.in_time),
        )
        return Rollout(stepped.state, after)

    def _capture(self, rollout: Rollout) -> torch.cuda.CUDAGraph:
        """Capture a slot as a CUDA graph that changes `rollout` in place."""

        def slot() -> None:
            _map_tensors(torch.Tensor.copy_, rollout, self._slot(rollout))

        for _ in range(2):
            slot()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            slot()
        return graph


def _map_tensors(function: Callable[..., Tensor], first: Tree, *others: Tree) -> Tree:
    """Apply a function to the tensors at each place of nested tuples of one form."""
    if isinstance(first, Tensor):
        return function(first, *others)  # pyright: ignore[reportReturnType]
    places = zip(first, *others, strict=True)  # pyright: ignore[reportArgumentType, reportCallIssue]
    parts = [_map_tensors(function, *each) for each in places]
    return type(first)(*parts)  # pyright: ignore[reportCallIssue]

"""Rollouts of many policies in the same worlds at once.

On a GPU a slot is one CUDA graph, which continues from the state that it left, as a slot is thousands of short kernels;
players start side by side, each on a stream of its own.
"""

from collections.abc import Callable
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


class Rollout(NamedTuple):
    """Where a rollout is."""

    state: core.State
    totals: Totals


class Player:
    """Plays episodes of one scenario with copies of a scorer.

    Args:
        policies: P copies.
        worlds: W, the same for each of them.
        slots: of an episode.
    """

    def __init__(self, world: OffloadWorld, policies: int, worlds: int, slots: int, device: str = "cpu"):
        self.tables = offload.load(world, device)
        self.policies, self.worlds, self.slots = policies, worlds, slots
        self.weights = torch.zeros((policies, scorer.SIZE), device=device)
        self._rollout: Rollout | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream = torch.cuda.Stream() if self.tables.edge.device.type == "cuda" else None

    @torch.no_grad()
    def start(self, weights: Tensor, seeds: Tensor) -> None:
        """Begin to play.

        Args:
            weights: [P, SIZE] of the copies.
            seeds: [W] int64 of the episodes.
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
            begun = self._begin(seeds)
            rollout: Rollout = self._rollout or _each(torch.clone, begun)
            graph = self._graph or self._capture(rollout)
            self._rollout, self._graph = rollout, graph
            self.weights.copy_(weights)
            _each(torch.Tensor.copy_, rollout, begun)
            for _ in range(self.slots):
                graph.replay()

    def result(self) -> tuple[Tensor, Tensor]:
        """Wait for the end; return mean latency (seconds) and share of late tasks of each policy, both [P]."""
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
        seen = offload.observe(self.tables, state)
        decision = scorer.decide(scorer.unpack(self.weights), seen)
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
        """A slot as a graph that moves `rollout` on."""

        def slot() -> None:
            _each(torch.Tensor.copy_, rollout, self._slot(rollout))

        for _ in range(2):
            slot()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            slot()
        return graph


def _each(function: Callable[..., Tensor], *values: Any) -> Any:
    """The function of each tensor of nested tuples of one form."""
    if isinstance(values[0], tuple):
        return type(values[0])(*(_each(function, *parts) for parts in zip(*values, strict=True)))
    return function(*values)

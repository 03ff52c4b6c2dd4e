"""The training loop of the off-policy learners: play, remember, learn, log, assess.

A round is one step of all worlds of all learners. `tensors` returns the loop's whole state between two rounds, and
random numbers depend on the learners' keys and the round only, so a restored loop continues exactly.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from coinfer.checkpoint import flatten_tree, unflatten_tree
from coinfer.physics import random
from coinfer.rl.core.batched_optim import add_prefix, sample_categorical, strip_prefix, uniform
from coinfer.rl.core.records import Actor, Env, Label, Learner, Observation, State, Transition
from coinfer.rl.core.replay import Replay

_WORLDS, _WARMUP, _REPLAY, _HELD_OUT = range(100, 104)
_SUMS = ("latency_s", "in_time", "timely_accuracy")
"""Metrics that are sums over the tasks of a slot."""
AnyLearner = TypeVar("AnyLearner", bound=Learner[Any])


@dataclass(frozen=True)
class LoopSettings:
    """How long a loop plays, and how often it learns, logs and assesses."""

    rounds: int
    """Steps that each world plays in the whole training."""
    warmup: int = 50
    """Rounds of random choices before the first update."""
    capacity: int = 100_000
    """Steps that each learner's memory holds."""
    batch: int = 256
    """Steps that each learner samples for an update."""
    update_every: int = 1
    """Rounds between two rounds that learn."""
    updates: int = 1
    """Updates in each round that learns."""
    log_every: int = 100
    """Rounds between two points of the curves."""
    assess_every: int = 0
    """Rounds between two assessments on held-out worlds; 0 for one at the end only."""
    assess_rounds: int = 50
    """Steps that an assessment plays."""

    def batch_numbers(self, number: int) -> range:
        """Return the numbers of the batches that a round learns from; empty if it does not learn.

        Args:
            number: number of the round, counted from 1.
        """
        learns = number > self.warmup and number % self.update_every == 0
        return range(number * self.updates, (number + learns) * self.updates)

    def assesses(self, number: int) -> bool:
        """Return whether a round ends with an assessment; the last one always does.

        Args:
            number: number of the round, counted from 1.
        """
        return number == self.rounds or bool(self.assess_every and number % self.assess_every == 0)


class Point(NamedTuple):
    """A point of the learning curves: means over the rounds since the point before."""

    round: int
    """Number of the round that ends with it, counted from 1."""
    figures: dict[str, list[float]]
    """One value for each learner, by name. `reward` is the mean of a slot's sum."""


class Loop(Generic[AnyLearner]):
    """A training of L learners, each in worlds of its own.

    Args:
        settings: how long to play, and how often to learn, log and assess.
        env: the environment.
        learner: L learners as one object; changed by `play`.
        share: maps each transition to what to remember: a transition for learners that share memories, or a label.
        ring: [L] int64 number of the memory that each learner reads; None if each has its own.
        held_out: the environment of the held-out worlds; None for `env`.
    """

    def __init__(
        self,
        settings: LoopSettings,
        env: Env[Any],
        learner: AnyLearner,
        share: Callable[[Transition], Transition | Label] = lambda transition: transition,
        ring: Tensor | None = None,
        held_out: Env[Any] | None = None,
    ):
        self.held_out = held_out or env
        self.settings, self.env, self.learner, self.share, self.ring = settings, env, learner, share, ring
        self.keys = learner.keys
        self.round, self.points = 0, list[Point]()
        self.assessed = list[Point]()
        self.state: tuple[object, ...]
        self.observation: Observation
        self.state, self.observation = env.reset(random.key(self.keys, _WORLDS))
        self.ended: Tensor | None = None
        """[L, W] worlds whose episode the last step ended, by itself or by its time limit."""
        self.replay: Replay[Any] | None = None
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}

    def play(self) -> None:
        """Play one round, with the updates, the point of the curves and the assessment that belong to it."""
        self.remember(self.step())
        for call in self.settings.batch_numbers(self.round):
            self.learn(self.sample(call))
        self.record_point()
        self.assess()

    def step(self) -> Transition | Label:
        """Begin a round: make one step in all worlds.

        Returns:
            What to give to `remember`.
        """
        observation = self.observation
        if self.round < self.settings.warmup:
            drawn = uniform(random.key(self.keys, _WARMUP), self.round, observation.task_mask.shape[1:])
            action = random_actions(observation.mask, drawn)
        else:
            action = self.learner.act(observation, self.round)
        result = self.env.step(self.state, action)
        self.state, self.observation = result.state, result.observation
        self.ended = result.terminated | result.truncated
        continues = 1.0 - result.terminated.to(result.reward.dtype)
        self.count({"reward": _slot_reward(result.reward), **result.metrics})
        self.round += 1
        return self.share(Transition(*observation, action, result.reward, continues, *result.final_observation))

    def remember(self, steps: Transition | Label) -> None:
        """Write a step of all worlds into the replay memories.

        Args:
            steps: [R, W, ..] what `step` returned; R is the number of memories.
        """
        if self.replay is None:
            self.replay = Replay(self.settings.capacity, steps)
        self.replay.add(steps)

    def sample(self, call: int) -> Any:
        """Return a batch [L, batch, ..] for each learner; needs at least one remembered transition.

        Args:
            call: number of the batch, of `LoopSettings.batch_numbers`; the same number samples the same places.
        """
        assert self.replay is not None
        return self.replay.sample(random.key(self.keys, _REPLAY), call, self.settings.batch, self.ring)

    def learn(self, batch: Transition | Label) -> None:
        """Update the learners and add their metrics to the next point of the curves.

        Args:
            batch: [L, n, ..] what `sample` returned.
        """
        self.count(self.learner.update(batch))

    def record_point(self) -> None:
        """Add a point to the curves if this round ends with one."""
        if self.round % self.settings.log_every == 0:
            means = _per_task({name: part / self.counts[name] for name, part in self.sums.items()})
            self.points.append(Point(self.round, {name: part.tolist() for name, part in means.items()}))
            self.sums, self.counts = {}, {}

    def assess(self) -> None:
        """Play on held-out worlds if this round ends with an assessment; changes nothing but `assessed`."""
        if self.settings.assesses(self.round):
            figures = assess(self.held_out, self.learner, self.settings.assess_rounds)
            self.assessed.append(Point(self.round, {name: part.tolist() for name, part in figures.items()}))

    def count(self, metrics: dict[str, Tensor]) -> None:
        """Add figures to the next point of the curves.

        Args:
            metrics: [L, ..] by name; a point holds the mean of all that were added.
        """
        for name, part in metrics.items():
            whole = part.double().flatten(1) if part.dim() > 1 else part.double()[:, None]
            self.sums[name] = self.sums.get(name, 0.0) + whole.sum(1)
            self.counts[name] = self.counts.get(name, 0.0) + torch.full_like(whole[:, 0], whole.shape[1])

    def tensors(self) -> dict[str, Tensor]:
        """Return the loop's state without its curves, by name: learners, worlds, replay memory, round."""
        parts = {"round": torch.tensor(self.round)}
        parts |= add_prefix("learner", self.learner.tensors()) | flatten_tree("state", self.state)
        if self.replay is not None:
            parts |= add_prefix("replay", self.replay.tensors())
        return parts | add_prefix("sums", self.sums) | add_prefix("counts", self.counts)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Set the loop's state to a saved one; the curves stay as they are.

        Args:
            tensors: what `tensors` returned, of a loop with the same settings.
        """
        self.round = int(tensors["round"])
        self.learner.restore(strip_prefix("learner", tensors))
        self.state = unflatten_tree("state", self.state, tensors)
        self.observation = self.env.observe(self.state)
        self.sums, self.counts = (
            {name: part.to(self.keys.device) for name, part in strip_prefix(kind, tensors).items()}
            for kind in ("sums", "counts")
        )
        parts = strip_prefix("replay", tensors)
        if parts:
            kind = Transition if "reward" in parts else Label
            like = kind(*(parts[name].to(self.keys.device) for name in kind._fields))
            self.replay = Replay(self.settings.capacity, like)
            self.replay.restore(parts)


def run(loop: Loop, progress: Callable[[Loop, float], None] = lambda *_: None) -> None:
    """Play a loop to its last round.

    Args:
        loop: the loop to play; a restored one continues.
        progress: called after each round with the loop and the seconds since the start of this call.
    """
    began_s = time.monotonic()
    while loop.round < loop.settings.rounds:
        loop.play()
        progress(loop, time.monotonic() - began_s)


@torch.no_grad()
def assess(env: Env[State], actor: Actor, rounds: int, seed: int = 0) -> dict[str, Tensor]:
    """Return mean figures [L] over held-out worlds, which are the same for every learner; none of them explores.

    Args:
        env: the environment, with the number of worlds to play.
        actor: the L policies.
        rounds: steps to play.
        seed: seed of the worlds.
    """
    same = random.key(torch.zeros_like(actor.keys) + seed, _HELD_OUT)
    state, observation = env.reset(same)
    sums: dict[str, Tensor] = {}
    for number in range(rounds):
        result = env.step(state, actor.act(observation, number, explore=False))
        for name, part in {"reward": _slot_reward(result.reward), **result.metrics}.items():
            sums[name] = sums.get(name, 0.0) + part.double().mean(1)
        state, observation = result.state, result.observation
    return _per_task({name: part / rounds for name, part in sums.items()})


def random_actions(mask: Tensor, drawn: Tensor) -> Tensor:
    """Return random choices [L, W, K], all allowed ones with the same probability.

    Args:
        mask: [L, W, K, C] true for allowed choices.
        drawn: [L, W, K] uniform random numbers in [0, 1).
    """
    return sample_categorical(mask.float(), drawn)


def _slot_reward(reward: Tensor) -> Tensor:
    return reward.sum(-1) if reward.dim() == 3 else reward


def _per_task(means: dict[str, Tensor]) -> dict[str, Tensor]:
    """Divide sums over tasks by the number of tasks, if the environment counts them."""
    tasks = means.pop("tasks", None)
    if tasks is None:
        return means
    shared = {name: means[name] / tasks.clamp(min=1e-12) for name in _SUMS if name in means}
    return means | shared

"""The loop of the off-policy learners: play, remember, learn, tell, assess.

A round is one step of all worlds of all learners. All that the loop holds between two rounds is in `tensors`, and
chance is counted from the learners' keys and the round, so a loop that is restored goes on exactly.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from coinfer.checkpoint import flattened, rebuilt
from coinfer.physics import random
from coinfer.rl.core.batched_optim import add_prefix, sample_categorical, strip_prefix, uniform
from coinfer.rl.core.records import Env, Learner, Transition
from coinfer.rl.core.replay import Replay

_WORLDS, _WARMUP, _REPLAY, _HELD_OUT = range(100, 104)


@dataclass(frozen=True)
class LoopSettings:
    rounds: int
    warmup: int = 50
    """Rounds of random choices before the first update."""
    capacity: int = 100_000
    """Steps that each learner's memory holds."""
    batch: int = 256
    update_every: int = 1
    """Rounds to a turn of learning."""
    updates: int = 1
    """In each such turn."""
    log_every: int = 100
    """Rounds to a point of the curves."""
    assess_every: int = 0
    """Rounds to an assessment on held-out worlds; 0 for none but the last."""
    assess_rounds: int = 50

    def batch_numbers(self, number: int) -> range:
        """Numbers of the batches that this round, counted from 1, learns from."""
        learns = number > self.warmup and number % self.update_every == 0
        return range(number * self.updates, (number + learns) * self.updates)

    def assesses(self, number: int) -> bool:
        """Whether this round ends with an assessment."""
        return number == self.rounds or bool(self.assess_every and number % self.assess_every == 0)


class Point(NamedTuple):
    """A point of the learning curves: means since the last one."""

    round: int
    figures: dict[str, list[float]]
    """Name to one value for each learner. `reward` is that of a slot."""


class Loop:
    """L learners in their worlds.

    Args:
        share: takes each transition and gives the one to remember: where learners share memories, or rewards change.
    """

    def __init__(
        self,
        settings: LoopSettings,
        env: Env,
        learner: Learner,
        share: Callable[[Transition], Transition] = lambda transition: transition,
        ring: Tensor | None = None,
    ):
        self.settings, self.env, self.learner, self.share, self.ring = settings, env, learner, share, ring
        self.keys = learner.keys
        self.round, self.points = 0, list[Point]()
        self.assessed = list[Point]()
        self.state, self.observation = env.reset(random.key(self.keys, _WORLDS))
        self.replay: Replay | None = None
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}

    def play(self) -> None:
        """One round."""
        self.remember(self.step())
        for call in self.settings.batch_numbers(self.round):
            self.learn(self.sample(call))
        self.record_point()
        self.assess()

    def step(self) -> Transition:
        """Begins a round: a step of all worlds, as it is to be remembered."""
        transition, metrics = self._step()
        self._count(metrics)
        self.round += 1
        return transition

    def remember(self, record: Transition) -> None:
        if self.replay is None:
            self.replay = Replay(self.settings.capacity, record)
        self.replay.add(record)

    def sample(self, call: int) -> Transition:
        """The batch of this number, for each learner."""
        assert self.replay is not None
        return self.replay.sample(random.key(self.keys, _REPLAY), call, self.settings.batch, self.ring)

    def learn(self, batch: Transition) -> None:
        self._count(self.learner.update(batch))

    def record_point(self) -> None:
        """A point of the curves, where a round ends with one."""
        if self.round % self.settings.log_every == 0:
            means = {name: part.tolist() for name, part in self._means().items()}
            self.points.append(Point(self.round, means))
            self.sums, self.counts = {}, {}

    def assess(self) -> None:
        """Plays on held-out worlds, where a round ends with that; changes nothing but the curve."""
        if self.settings.assesses(self.round):
            figures = assess(self.env, self.learner, self.settings.assess_rounds)
            self.assessed.append(Point(self.round, {name: part.tolist() for name, part in figures.items()}))

    def _step(self) -> tuple[Transition, dict[str, Tensor]]:
        observation = self.observation
        if self.round < self.settings.warmup:
            action = random_actions(
                observation.mask, uniform(random.key(self.keys, _WARMUP), self.round, observation.task_mask.shape[1:])
            )
        else:
            action = self.learner.act(observation, self.round)
        result = self.env.step(self.state, action)
        self.state, self.observation = result.state, result.observation
        continues = 1.0 - result.terminated.to(result.reward.dtype)
        kept = self.share(Transition(*observation, action, result.reward, continues, *result.final_observation))
        return kept, {"reward": _by_slot(result.reward), **result.metrics}

    def _count(self, metrics: dict[str, Tensor]) -> None:
        for name, part in metrics.items():
            whole = part.double().flatten(1) if part.dim() > 1 else part.double()[:, None]
            self.sums[name] = self.sums.get(name, 0.0) + whole.sum(1)
            self.counts[name] = self.counts.get(name, 0.0) + torch.full_like(whole[:, 0], whole.shape[1])

    def _means(self) -> dict[str, Tensor]:
        means = {name: part / self.counts[name] for name, part in self.sums.items()}
        return _by_task(means)

    def tensors(self) -> dict[str, Tensor]:
        """All that the loop holds, but its curves."""
        kept = {"round": torch.tensor(self.round)}
        kept |= add_prefix("learner", self.learner.tensors()) | flattened("state", self.state)
        if self.replay is not None:
            kept |= add_prefix("replay", self.replay.tensors())
        return kept | add_prefix("sums", self.sums) | add_prefix("counts", self.counts)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """What `tensors` gave."""
        self.round = int(tensors["round"])
        self.learner.restore(strip_prefix("learner", tensors))
        self.state = rebuilt("state", self.state, tensors)
        self.observation = self.env.observe(self.state)
        self.sums, self.counts = (
            {name: part.to(self.keys.device) for name, part in strip_prefix(kind, tensors).items()}
            for kind in ("sums", "counts")
        )
        kept = strip_prefix("replay", tensors)
        if kept:
            self.replay = Replay(self.settings.capacity, Transition(*(kept[name] for name in Transition._fields)))
            self.replay.store = [part.to(self.keys.device) for part in self.replay.store]
            self.replay.restore(kept)


def run(loop: Loop, progress: Callable[[Loop, float], None] = lambda *_: None) -> None:
    """Plays until the last round; `progress` is told the loop and the seconds since the start of this call."""
    began_s = time.monotonic()
    while loop.round < loop.settings.rounds:
        loop.play()
        progress(loop, time.monotonic() - began_s)


@torch.no_grad()
def assess(env: Env, learner: Learner, rounds: int, seed: int = 0) -> dict[str, Tensor]:
    """Means [L] over held-out worlds, the same for every learner, each doing what it thinks best."""
    same = random.key(torch.zeros_like(learner.keys) + seed, _HELD_OUT)
    state, observation = env.reset(same)
    sums: dict[str, Any] = {}
    for number in range(rounds):
        result = env.step(state, learner.act(observation, number, explore=False))
        for name, part in {"reward": _by_slot(result.reward), **result.metrics}.items():
            sums[name] = sums.get(name, 0.0) + part.double().mean(1)
        state, observation = result.state, result.observation
    return _by_task({name: part / rounds for name, part in sums.items()})


def random_actions(mask: Tensor, drawn: Tensor) -> Tensor:
    """Each allowed choice as likely; `drawn` [L, W, K] in [0, 1)."""
    return sample_categorical(mask.float(), drawn)


def _by_slot(reward: Tensor) -> Tensor:
    return reward.sum(-1) if reward.dim() == 3 else reward


def _by_task(means: dict[str, Tensor]) -> dict[str, Tensor]:
    """Figures of tasks by task, where a game tells how many there were."""
    tasks = means.pop("tasks", None)
    if tasks is None:
        return means
    shared = {name: means[name] / tasks.clamp(min=1e-12) for name in ("latency_s", "in_time") if name in means}
    return means | shared

"""What games, learners and memories pass to each other. L learners, W worlds of each, K tasks, C choices of a task."""

from typing import Any, NamedTuple, Protocol

from torch import Tensor


class Observation(NamedTuple):
    """What a learner sees of its worlds."""

    features: Tensor
    """[L, W, ..] as the networks take them in."""
    mask: Tensor
    """[L, W, K, C] true for what may be chosen; every task has such a choice, also where there is no task."""
    task_mask: Tensor
    """[L, W, K] true where there is a task."""


class Transition(NamedTuple):
    """A step, as learned from. In a batch W is the number drawn."""

    features: Tensor
    mask: Tensor
    task_mask: Tensor
    action: Tensor
    """[L, W, K] int64, the choice of each task; any where there is none."""
    reward: Tensor
    """[L, W], or [L, W, K] where every task's own is known."""
    continues: Tensor
    """[L, W] 1 where the future counts, also at a time limit; 0 where the episode truly ended."""
    next_features: Tensor
    next_mask: Tensor
    next_task_mask: Tensor
    """Of the state that the step led to, before any new episode was begun."""

    @property
    def observation(self) -> Observation:
        return Observation(self.features, self.mask, self.task_mask)

    @property
    def next_observation(self) -> Observation:
        return Observation(self.next_features, self.next_mask, self.next_task_mask)


class StepResult(NamedTuple):
    """What a step of a game brings."""

    state: Any
    """Of the worlds, those that were over having begun anew."""
    observation: Observation
    """Of that state."""
    final_observation: Observation
    """Of the state that the step led to, before worlds began anew."""
    reward: Tensor
    """[L, W] or [L, W, K]"""
    terminated: Tensor
    """[L, W] truly over: nothing comes after."""
    truncated: Tensor
    """[L, W] cut short by the time limit: the future still counts."""
    metrics: dict[str, Tensor]
    """Figures [L, W] to show, by name."""


class Env(Protocol):
    """Worlds for L learners, as pure functions over a state that is a (nested) NamedTuple of tensors."""

    def reset(self, seeds: Tensor) -> tuple[Any, Observation]:
        """First state and view for the seeds [L] of the learners."""
        ...

    def observe(self, state: Any) -> Observation:
        """What the learners see of a state."""
        ...

    def step(self, state: Any, action: Tensor) -> StepResult:
        """Carries an action [L, W, K] out."""
        ...


class Learner(Protocol):
    """L learners of one kind."""

    keys: Tensor
    """[L] int64, where their chance comes from."""

    def act(self, observation: Observation, call: int, explore: bool = True) -> Tensor:
        """Choices [L, W, K]; `call` numbers the draws."""
        ...

    def update(self, batch: Transition) -> dict[str, Tensor]:
        """One step of learning; figures [L] to show."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All that is to be kept, by name."""
        ...

    def restore(self, tensors: dict[str, Tensor]) -> None: ...

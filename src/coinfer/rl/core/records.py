"""What environments, learners and memories pass to each other.

Letters of the axes: L learners, W worlds of each, K tasks of a slot, C choices of a task.
"""

from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor

State = TypeVar("State", bound="tuple[Any, ...]")


class Observation(NamedTuple):
    """What a learner sees of its worlds."""

    features: Tensor
    """[L, W, ..] as the networks take them in."""
    mask: Tensor
    """[L, W, K, C] true for what may be chosen; every task has such a choice, even if there is no task."""
    task_mask: Tensor
    """[L, W, K] true if there is a task."""


class Transition(NamedTuple):
    """A step, as learned from. In a batch W is the number of steps that were sampled."""

    features: Tensor
    mask: Tensor
    task_mask: Tensor
    action: Tensor
    """[L, W, K] int64, the choice of each task; anything if there is none."""
    reward: Tensor
    """[L, W], or [L, W, K] if every task's own reward is known."""
    continues: Tensor
    """[L, W] 1 - terminated: 1 if the future counts, also at a time limit; 0 if the episode truly ended."""
    next_features: Tensor
    next_mask: Tensor
    next_task_mask: Tensor
    """Of the state that the step led to, before any new episode began."""

    @property
    def observation(self) -> Observation:
        """What was seen before the step."""
        return Observation(self.features, self.mask, self.task_mask)

    @property
    def next_observation(self) -> Observation:
        """What was seen after the step."""
        return Observation(self.next_features, self.next_mask, self.next_task_mask)


class StepResult(NamedTuple):
    """What a step of an environment leads to."""

    state: tuple[Any, ...]
    """Of the worlds; those whose episode was over have begun a new one."""
    observation: Observation
    """Of that state."""
    final_observation: Observation
    """Of the state that the step led to, before any new episode began."""
    reward: Tensor
    """[L, W] or [L, W, K]"""
    terminated: Tensor
    """[L, W] truly over: nothing comes after."""
    truncated: Tensor
    """[L, W] cut short by the time limit: the future still counts."""
    metrics: dict[str, Tensor]
    """Figures [L, W] to show, by name."""


class Env(Protocol[State]):
    """Worlds for L learners, as pure functions over a state that is a (nested) NamedTuple of tensors."""

    def reset(self, seeds: Tensor) -> tuple[State, Observation]:
        """Return the first state and observation for the learners' seeds [L]."""
        ...

    def observe(self, state: State) -> Observation:
        """Return what the learners see of a state."""
        ...

    def step(self, state: State, action: Tensor) -> StepResult:
        """Carry an action [L, W, K] out."""
        ...


class Actor(Protocol):
    """L policies that only act."""

    keys: Tensor
    """[L] int64, where their random numbers come from."""

    def act(self, observation: Observation, call: int, explore: bool = True) -> Tensor:
        """Return choices [L, W, K].

        Args:
            call: numbers the draws: the same call draws the same numbers.
            explore: whether to explore, instead of taking what seems best.
        """
        ...


class Learner(Actor, Protocol):
    """L learners of one kind."""

    def update(self, batch: Transition) -> dict[str, Tensor]:
        """Learn from one batch and return metrics [L], by name."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a checkpoint must hold, by name."""
        ...

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` returned."""
        ...

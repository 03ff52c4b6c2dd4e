"""Observations, transitions and step results, and the protocols of environments and learners.

Letters of the axes: L learners, W worlds of each, K tasks of a slot, C choices of a task.
"""

from typing import Generic, Protocol, TypeVar

from torch import Tensor
from typing_extensions import NamedTuple

State = TypeVar("State", bound="tuple[object, ...]")
"""State of an environment: a (nested) NamedTuple of tensors."""


class Observation(NamedTuple):
    """What a learner sees of its worlds."""

    features: Tensor
    """[L, W, ..] inputs of the networks."""
    mask: Tensor
    """[L, W, K, C] true for allowed choices; each of the K places has one, even if it holds no task."""
    task_mask: Tensor
    """[L, W, K] true if there is a task."""


class Transition(NamedTuple):
    """One step of every world; in a sampled batch, W is the number of steps."""

    features: Tensor
    mask: Tensor
    task_mask: Tensor
    action: Tensor
    """[L, W, K] int64, the choice of each task; any value if there is no task."""
    reward: Tensor
    """[L, W] of the slot, or [L, W, K] of each task."""
    continues: Tensor
    """[L, W] 1 - terminated: 1 if the future counts, also at a time limit; 0 if the episode terminated."""
    next_features: Tensor
    next_mask: Tensor
    next_task_mask: Tensor
    """`next_..`: observation of the state that the step led to, before any reset."""

    @property
    def observation(self) -> Observation:
        """Return the observation before the step."""
        return Observation(self.features, self.mask, self.task_mask)

    @property
    def next_observation(self) -> Observation:
        """Return the observation after the step."""
        return Observation(self.next_features, self.next_mask, self.next_task_mask)


class Label(NamedTuple):
    """What was observed and the action to imitate; in a sampled batch, W is the number of steps."""

    features: Tensor
    mask: Tensor
    task_mask: Tensor
    action: Tensor
    """[L, W, K] int64, the choice of each task; any value if there is no task."""


def label(transition: Transition) -> Label:
    """Return the part of a transition that learners by imitation remember.

    Args:
        transition: [L, W, ..] one step of every world.
    """
    return Label(*transition.observation, transition.action)


Record = TypeVar("Record", bound=Transition | Label)
"""What a replay memory holds."""
Batch = TypeVar("Batch", contravariant=True)
"""What a learner learns from."""


class StepResult(NamedTuple, Generic[State]):
    """State, observations and rewards after a step of an environment."""

    state: State
    """State after the step; worlds whose episode ended are reset."""
    observation: Observation
    """Observation of `state`."""
    final_observation: Observation
    """Observation of the state that the step led to, before any reset."""
    reward: Tensor
    """[L, W] of the slot, or [L, W, K] of each task."""
    terminated: Tensor
    """[L, W] true if the episode ended by itself: nothing comes after."""
    truncated: Tensor
    """[L, W] true if the time limit cut the episode short: the future still counts."""
    metrics: dict[str, Tensor]
    """Figures [L, W] for the learning curves, by name."""


class Env(Protocol[State]):
    """W worlds for each of L learners, as pure functions over a state that is a (nested) NamedTuple of tensors."""

    def reset(self, seeds: Tensor) -> tuple[State, Observation]:
        """Return the first state and its observation.

        Args:
            seeds: [L] int64, one for each learner; its worlds depend on nothing else.
        """
        ...

    def observe(self, state: State) -> Observation:
        """Return what the learners see of a state.

        Args:
            state: a state that `reset` or `step` returned.
        """
        ...

    def step(self, state: State, action: Tensor) -> StepResult[State]:
        """Carry out an action and reset the worlds whose episode it ends.

        Args:
            state: the state before the step; it is not changed.
            action: [L, W, K] int64 choices that the mask allows.

        Returns:
            The next state, with the observations before and after a reset.
        """
        ...


class Actor(Protocol):
    """L policies that only act."""

    keys: Tensor
    """[L] int64 keys of their random numbers."""

    def act(self, observation: Observation, call: int, explore: bool = True) -> Tensor:
        """Return choices [L, W, K] int64.

        Args:
            observation: [L, W, ..] the worlds to decide in.
            call: number of this draw, usually the round; the same call draws the same numbers.
            explore: whether to explore; if false, take the best choices.
        """
        ...


class Learner(Actor, Protocol[Batch]):
    """L learners of one kind."""

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Make one update of the networks.

        Args:
            batch: [L, n, ..] n sampled steps for each learner.

        Returns:
            Metrics [L] by name, such as losses.
        """
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return the state that a checkpoint must hold, by name."""
        ...

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Set the state to a saved one.

        Args:
            tensors: what `tensors` returned, of a learner with the same settings; on any device.
        """
        ...

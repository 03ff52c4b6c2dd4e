"""The worlds as Gymnasium environments: one (`Edge`) or a batch that steps together (`EdgeVector`).

    import gymnasium
    import coinfer.envs.adapters.gymnasium_env

    env = gymnasium.make("coinfer/Edge-v0", scenario="campus")
    envs = gymnasium.make_vec("coinfer/Edge-v0", num_envs=1024, scenario="campus")

Observations and actions are those of `batched_env`: a dictionary of the fields of `types` as float32 in SI units, and
one whole number per task (`offload`) or block (`blocks`). Episodes never end before their last slot: then they are
`truncated`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from coinfer.envs.batched_env import MAX_VALUE, BatchedEnv, Transition, make_batched_env
from coinfer.envs.rewards import Reward
from coinfer.physics import random
from coinfer.scenario.world import BlocksWorld, OffloadWorld

ID = "coinfer/Edge-v0"
Observation = dict[str, np.ndarray]


class EdgeVector(VectorEnv[Observation, np.ndarray, np.ndarray]):
    """Independent worlds of one scenario.

    If an episode ends, the next one begins in the same step; its last observation is in `info["final_obs"]`. Sums over
    the tasks of the slot are in `info`: `tasks`, `latency_s`, `in_time`.

    Args:
        num_envs: B, number of worlds.
        scenario: a preset, a file, or a compiled world.
        changes: values to put into the file, by dotted key.
        reward: the scenario's own if None.
        device: of PyTorch.
    """

    def __init__(
        self,
        num_envs: int = 1,
        scenario: str | Path | OffloadWorld | BlocksWorld = "campus",
        changes: Mapping[str, object] | None = None,
        reward: Reward | None = None,
        device: str = "cpu",
    ):
        self.batched_env = make_batched_env(num_envs, scenario, changes, reward, device)
        self.num_envs = num_envs
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space, self.single_action_space = _spaces(self.batched_env)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, object] | None = None
    ) -> tuple[Observation, dict[str, object]]:
        """Begin new episodes.

        Args:
            seed: world i gets the episode of `seed + i`; or a list with one seed per world. None draws new ones.
            options: `{"reset_mask": [B] bool}` resets only these worlds; None resets all.

        Returns:
            Observation [B, ..] and an empty info.
        """
        if not isinstance(seed, list):
            super().reset(seed=seed)
            numbers = (
                self.np_random.integers(0, 2**62, self.num_envs) if seed is None else seed + np.arange(self.num_envs)
            )
        else:
            super().reset(seed=next((one for one in seed if one is not None), None))
            fresh = self.np_random.integers(0, 2**62, self.num_envs)
            numbers = [fresh[i] if one is None else one for i, one in enumerate(seed)]
        mask = (options or {}).get("reset_mask")
        self.batched_env.reset(hash_seeds(numbers), None if mask is None else torch.as_tensor(mask))
        return _arrays(self.batched_env.observe()), {}

    def step(self, actions: np.ndarray) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, object]]:
        """Carry out the actions of one slot of every world.

        Args:
            actions: [B, A] whole numbers.

        Returns:
            Observation, reward [B], terminated [B] (always false), truncated [B], and info.

        Raises:
            UserError: if an action is not in the action space; one line.
        """
        self.batched_env.check_action(np.asarray(actions))
        transition = self.batched_env.step(torch.as_tensor(actions))
        observation, info = _arrays(transition.observation), _info(transition)
        if bool(transition.truncated.any()):
            finished = transition.truncated.cpu().numpy()
            info |= {"final_obs": _final_observations(observation, finished), "_final_obs": finished}
            self.batched_env.next_episodes(transition.truncated)
            observation = _arrays(self.batched_env.observe())
        terminated = np.zeros(self.num_envs, dtype=bool)
        return (
            observation,
            transition.reward.double().cpu().numpy(),
            terminated,
            transition.truncated.cpu().numpy(),
            info,
        )

    def action_masks(self) -> np.ndarray:
        """Return which values of the actions can be carried out, [B, A, C] bool; see `batched_env.BatchedEnv.mask`."""
        return self.batched_env.mask().cpu().numpy()


class Edge(gymnasium.Env[dict[str, Any], np.ndarray]):
    """One world; arguments, spaces and `info` are those of `EdgeVector`."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        scenario: str | Path | OffloadWorld | BlocksWorld = "campus",
        changes: Mapping[str, object] | None = None,
        reward: Reward | None = None,
        device: str = "cpu",
    ):
        self.batched_env = make_batched_env(1, scenario, changes, reward, device)
        self.observation_space, self.action_space = _spaces(self.batched_env)

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[Observation, dict[str, object]]:
        """Begin a new episode.

        Args:
            seed: names the episode; None draws a new one.
            options: ignored.

        Returns:
            Observation and an empty info.
        """
        super().reset(seed=seed)
        self.batched_env.reset(hash_seeds([int(self.np_random.integers(0, 2**62)) if seed is None else seed]))
        return _first(_arrays(self.batched_env.observe())), {}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, object]]:
        """Carry out the action of one slot.

        Args:
            action: [A] whole numbers.

        Returns:
            Observation, reward, terminated (always false), truncated, and info.

        Raises:
            UserError: if the action is not in the action space; one line.
        """
        self.batched_env.check_action(np.asarray(action)[None])
        transition = self.batched_env.step(torch.as_tensor(action)[None])
        info: dict[str, object] = {name: np.asarray(value)[0] for name, value in _info(transition).items()}
        return (
            _first(_arrays(transition.observation)),
            float(transition.reward[0]),
            False,
            bool(transition.truncated[0]),
            info,
        )

    def action_masks(self) -> np.ndarray:
        """Return which values of an action can be carried out, [A, C] bool; see `batched_env.BatchedEnv.mask`."""
        return self.batched_env.mask()[0].cpu().numpy()


def make_env(
    scenario: str | Path | OffloadWorld | BlocksWorld = "campus",
    *,
    changes: Mapping[str, object] | None = None,
    reward: Reward | None = None,
    device: str = "cpu",
) -> Edge:
    """Return a scenario as a Gymnasium environment; `make_vector_env` makes a batch of them.

    Args:
        scenario: a preset, a file, or a compiled world.
        changes: values to put into the file, by dotted key, such as `{"servers.0.capacity": 3}`.
        reward: the scenario's own if None.
        device: of PyTorch.

    Raises:
        UserError: if there is no such scenario, it is wrong, or it belongs to another environment; one line.
    """
    return Edge(scenario, changes, reward, device)


def make_vector_env(
    scenario: str | Path | OffloadWorld | BlocksWorld = "campus",
    num_envs: int = 64,
    *,
    changes: Mapping[str, object] | None = None,
    reward: Reward | None = None,
    device: str = "cpu",
) -> EdgeVector:
    """Return a batch of independent worlds of a scenario, which step in one call.

    Args:
        scenario: a preset, a file, or a compiled world.
        num_envs: B, number of worlds.
        changes: values to put into the file, by dotted key, such as `{"servers.0.capacity": 3}`.
        reward: the scenario's own if None.
        device: of PyTorch.

    Raises:
        UserError: if there is no such scenario, it is wrong, or it belongs to another environment; one line.
    """
    return EdgeVector(num_envs, scenario, changes, reward, device)


def hash_seeds(numbers: npt.ArrayLike) -> Tensor:
    """Return seeds of episodes, int64 of the same shape, that are far apart also for neighbouring numbers.

    Args:
        numbers: whole numbers of at most 63 bits.
    """
    return random.mix(torch.as_tensor(np.asarray(numbers, dtype=np.int64)))


def _spaces(env: BatchedEnv) -> tuple[spaces.Dict, spaces.MultiDiscrete]:
    """Return the spaces of the observations and actions of one world."""
    fields = env.observe()
    seen: dict[str, spaces.Space[np.ndarray]] = {
        name: spaces.Box(0.0, MAX_VALUE, tuple(field.shape[1:]), np.float32) for name, field in fields.items()
    }
    return spaces.Dict(seen), spaces.MultiDiscrete(env.nvec)


def _arrays(fields: dict[str, Tensor]) -> Observation:
    return {name: field.cpu().numpy() for name, field in fields.items()}


def _first(fields: Observation) -> Observation:
    return {name: field[0] for name, field in fields.items()}


def _info(transition: Transition) -> dict[str, object]:
    return {name: getattr(transition, name).cpu().numpy() for name in ("tasks", "latency_s", "in_time")}


def _final_observations(fields: Observation, finished: np.ndarray) -> np.ndarray:
    """Return [B] objects, as Gymnasium has it: the observation of a world whose episode is over, else None."""
    observations = np.full(len(finished), None, dtype=object)
    for i in np.flatnonzero(finished):
        observations[i] = {name: field[i] for name, field in fields.items()}
    return observations


if ID not in gymnasium.registry:
    gymnasium.register(ID, entry_point=f"{__name__}:Edge", vector_entry_point=f"{__name__}:EdgeVector")

"""The worlds as Gymnasium environments: one (`Edge`) or a batch that steps together (`EdgeVector`).

    import gymnasium
    import coinfer.envs.adapters.gymnasium_env

    env = gymnasium.make("coinfer/Edge-v0", scenario="campus")
    envs = gymnasium.make_vec("coinfer/Edge-v0", num_envs=1024, scenario="campus")

Observations and actions are those of `batched_env`: a dictionary of the fields of `types` as float32 in SI units, and
one whole number for each task (`offload`) or block (`blocks`). Episodes never end before their last slot: then
`truncated`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from coinfer.envs.batched_env import MOST, BatchedEnv, Transition, make_batched_env
from coinfer.envs.rewards import Reward
from coinfer.physics import random
from coinfer.scenario.world import BlocksWorld, OffloadWorld

ID = "coinfer/Edge-v0"
Observation = dict[str, np.ndarray]


class EdgeVector(VectorEnv[Any, Any, Any]):
    """Independent worlds of one scenario.

    Where an episode ends, the next one begins in the same step; its last observation is in `info["final_obs"]`. Sums
    over the tasks of the slot are in `info`: `tasks`, `latency_s`, `in_time`.

    Args:
        scenario: a preset, a file, or a compiled world.
        changes: values to put into the file, by dotted key.
        reward: the scenario's own without it.
    """

    def __init__(
        self,
        num_envs: int = 1,
        scenario: str | Path | OffloadWorld | BlocksWorld = "campus",
        changes: Mapping[str, Any] | None = None,
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
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """New episodes, in the worlds of `options["reset_mask"]` or in all.

        Args:
            seed: world i gets the episode of `seed + i`; or a list, one for each world.
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
        self.batched_env.reset(episode_of(numbers), None if mask is None else torch.as_tensor(mask))
        return _arrays(self.batched_env.observe()), {}

    def step(self, actions: np.ndarray) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Carry out the actions [B, A] of one slot of every world.

        Raises:
            UserError: if an action is not in the action space.
        """
        self.batched_env.check_action(np.asarray(actions))
        done = self.batched_env.step(torch.as_tensor(actions))
        observation, info = _arrays(done.observation), _info(done)
        if bool(done.truncated.any()):
            over = done.truncated.cpu().numpy()
            info |= {"final_obs": _one_by_one(observation, over), "_final_obs": over}
            self.batched_env.next_episodes(done.truncated)
            observation = _arrays(self.batched_env.observe())
        never = np.zeros(self.num_envs, dtype=bool)
        return observation, done.reward.double().cpu().numpy(), never, done.truncated.cpu().numpy(), info

    def action_masks(self) -> np.ndarray:
        """[B, A, C] bool, as `batched_env.BatchedEnv.mask`."""
        return self.batched_env.mask().cpu().numpy()


class Edge(gymnasium.Env[Any, Any]):
    """One world; arguments, spaces and `info` as `EdgeVector`."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        scenario: str | Path | OffloadWorld | BlocksWorld = "campus",
        changes: Mapping[str, Any] | None = None,
        reward: Reward | None = None,
        device: str = "cpu",
    ):
        self.batched_env = make_batched_env(1, scenario, changes, reward, device)
        self.observation_space, self.action_space = _spaces(self.batched_env)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """The episode of a seed, or a new one."""
        super().reset(seed=seed)
        self.batched_env.reset(episode_of([int(self.np_random.integers(0, 2**62)) if seed is None else seed]))
        return _first(_arrays(self.batched_env.observe())), {}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Carry out the action [A] of one slot.

        Raises:
            UserError: if it is not in the action space.
        """
        self.batched_env.check_action(np.asarray(action)[None])
        done = self.batched_env.step(torch.as_tensor(action)[None])
        info = {name: value[0] for name, value in _info(done).items()}
        return _first(_arrays(done.observation)), float(done.reward[0]), False, bool(done.truncated[0]), info

    def action_masks(self) -> np.ndarray:
        """[A, C] bool, as `batched_env.BatchedEnv.mask`."""
        return self.batched_env.mask()[0].cpu().numpy()


def make_env(
    scenario: str | Path | OffloadWorld | BlocksWorld = "campus",
    *,
    changes: Mapping[str, Any] | None = None,
    reward: Reward | None = None,
    device: str = "cpu",
) -> Edge:
    """Return a scenario as a Gymnasium environment; `make_vector_env` makes a batch of them.

    Args:
        scenario: a preset, a file, or a compiled world.
        changes: values to put into the file, by dotted key, such as `{"servers.0.capacity": 3}`.
        reward: the scenario's own if there is none.
        device: of PyTorch.

    Raises:
        UserError: if there is no such scenario, it is wrong, or of an environment that decides otherwise.
    """
    return Edge(scenario, changes, reward, device)


def make_vector_env(
    scenario: str | Path | OffloadWorld | BlocksWorld = "campus",
    worlds: int = 64,
    *,
    changes: Mapping[str, Any] | None = None,
    reward: Reward | None = None,
    device: str = "cpu",
) -> EdgeVector:
    """Return a batch of independent worlds of a scenario, which step in one call; see `make_env` for the arguments."""
    return EdgeVector(worlds, scenario, changes, reward, device)


def episode_of(numbers: Any) -> Tensor:
    """Seeds of episodes, far apart also for numbers that are neighbours."""
    return random.mix(torch.as_tensor(np.asarray(numbers, dtype=np.int64)))


def _spaces(worlds: BatchedEnv) -> tuple[spaces.Dict, spaces.MultiDiscrete]:
    """Of one world."""
    fields = worlds.observe()
    seen: dict[str, spaces.Space[Any]] = {
        name: spaces.Box(0.0, MOST, tuple(field.shape[1:]), np.float32) for name, field in fields.items()
    }
    return spaces.Dict(seen), spaces.MultiDiscrete(worlds.choices)


def _arrays(fields: dict[str, Tensor]) -> Observation:
    return {name: field.cpu().numpy() for name, field in fields.items()}


def _first(fields: Observation) -> Observation:
    return {name: field[0] for name, field in fields.items()}


def _info(done: Transition) -> dict[str, np.ndarray]:
    return {name: getattr(done, name).cpu().numpy() for name in ("tasks", "latency_s", "in_time")}


def _one_by_one(fields: Observation, over: np.ndarray) -> np.ndarray:
    """[B] objects, as Gymnasium has it: the observation of a world that is over, else None."""
    found = np.full(len(over), None, dtype=object)
    for i in np.flatnonzero(over):
        found[i] = {name: field[i] for name, field in fields.items()}
    return found


if ID not in gymnasium.registry:
    gymnasium.register(ID, entry_point=f"{__name__}:Edge", vector_entry_point=f"{__name__}:EdgeVector")

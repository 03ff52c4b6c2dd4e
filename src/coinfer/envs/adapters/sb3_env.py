"""A batch of worlds as stable-baselines3 wants its vectorised environments; all worlds step in one call."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from coinfer.envs.adapters.gymnasium_env import EdgeVector, make_vector_env


class Sb3Vector(VecEnv):
    """Wraps an `EdgeVector`. The info of an episode that ends has `terminal_observation` and `TimeLimit.truncated`, as
    stable-baselines3 looks for them."""

    def __init__(self, envs: EdgeVector):
        self.envs, self._actions = envs, np.zeros(0)
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> Any:
        """First observations; of the episodes that `seed` named, if it was called."""
        seeds = list(self._seeds)
        self._reset_seeds()
        return self.envs.reset(seed=None if None in seeds else seeds)[0]

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> Any:
        """Observations, rewards, ends and infos of all worlds."""
        seen, reward, _, over, found = self.envs.step(self._actions)
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": bool(done)} for done in over]
        for i in np.flatnonzero(over):
            infos[i]["terminal_observation"] = found["final_obs"][i]
        return seen, reward.astype(np.float32), over, infos

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.envs, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self.envs, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """A method of the whole batch, called once; `action_masks` gives each world its own."""
        found = getattr(self.envs, method_name)(*method_args, **method_kwargs)
        return [found[i] if isinstance(found, np.ndarray) else found for i in self._get_indices(indices)]

    def close(self) -> None:
        self.envs.close()


def make_sb3_env(
    scenario: str | Path = "campus", worlds: int = 64, *, changes: Mapping[str, Any] | None = None, device: str = "cpu"
) -> Sb3Vector:
    """Return a batch of worlds as stable-baselines3 takes it; see `make_env` for the arguments."""
    return Sb3Vector(make_vector_env(scenario, worlds, changes=changes, device=device))

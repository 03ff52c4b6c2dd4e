"""A batch of worlds as a vectorised environment of stable-baselines3; all worlds step in one call."""

from collections.abc import Mapping
from pathlib import Path

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from coinfer.envs.adapters.gymnasium_env import EdgeVector, Observation, make_vector_env


class Sb3Vector(VecEnv):
    """An `EdgeVector` for stable-baselines3.

    The info of an episode that ends has `terminal_observation` and `TimeLimit.truncated`, which that library reads.

    Args:
        envs: the worlds; closed with this object.
    """

    def __init__(self, envs: EdgeVector):
        self.envs, self._actions = envs, np.zeros(0)
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> Observation:
        """Return the first observations [B, ..], by field, of new episodes: those of `seed` if it was called."""
        seeds = list(self._seeds)
        self._reset_seeds()
        return self.envs.reset(seed=None if None in seeds else seeds)[0]

    def step_async(self, actions: np.ndarray) -> None:
        """Store the actions for `step_wait`.

        Args:
            actions: [B, A] whole numbers.
        """
        self._actions = actions

    def step_wait(self) -> tuple[Observation, np.ndarray, np.ndarray, list[dict[str, object]]]:
        """Carry out the stored actions.

        Returns:
            Observations [B, ..] by field, rewards [B], whether episodes are over [B], and an info per world.

        Raises:
            UserError: if an action is not in the action space; one line.
        """
        observation, reward, _, finished, info = self.envs.step(self._actions)
        infos: list[dict[str, object]] = [{"TimeLimit.truncated": bool(done)} for done in finished]
        for i in np.flatnonzero(finished):
            infos[i]["terminal_observation"] = np.asarray(info["final_obs"])[i]
        return observation, reward.astype(np.float32), finished, infos

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Return false for each world, as they have no wrappers.

        Args:
            wrapper_class: ignored.
            indices: numbers of the worlds; None for all.
        """
        return [False for _ in self._get_indices(indices)]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[object]:
        """Return an attribute of the batch, once for each world.

        Args:
            attr_name: of `EdgeVector`.
            indices: numbers of the worlds; None for all.

        Raises:
            AttributeError: if there is no such attribute.
        """
        return [getattr(self.envs, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: object, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the whole batch.

        Args:
            attr_name: of `EdgeVector`.
            value: for all worlds.
            indices: ignored, as the worlds share their attributes.
        """
        setattr(self.envs, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: object, indices: VecEnvIndices = None, **method_kwargs: object
    ) -> list[object]:
        """Return the result of a method of the whole batch, for each world.

        Args:
            method_name: of `EdgeVector`, called once; an array that it returns (`action_masks`) is split by world.
            method_args: for the method.
            indices: numbers of the worlds; None for all.
            method_kwargs: for the method.

        Raises:
            AttributeError: if there is no such method.
        """
        value = getattr(self.envs, method_name)(*method_args, **method_kwargs)
        return [value[i] if isinstance(value, np.ndarray) else value for i in self._get_indices(indices)]

    def close(self) -> None:
        """Close the worlds."""
        self.envs.close()


def make_sb3_env(
    scenario: str | Path = "campus",
    num_envs: int = 64,
    *,
    changes: Mapping[str, object] | None = None,
    device: str = "cpu",
) -> Sb3Vector:
    """Return a batch of worlds for stable-baselines3.

    Args:
        scenario: a preset or a file.
        num_envs: B, number of worlds.
        changes: values to put into the file, by dotted key, such as `{"servers.0.capacity": 3}`.
        device: of PyTorch.

    Raises:
        UserError: if there is no such scenario, it is wrong, or it belongs to another environment; one line.
    """
    return Sb3Vector(make_vector_env(scenario, num_envs, changes=changes, device=device))

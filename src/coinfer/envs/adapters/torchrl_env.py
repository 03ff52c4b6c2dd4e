"""A batch of worlds as a TorchRL environment.

    env = EdgeEnv("campus", batch_size=1024)
    rollout = env.rollout(50, policy)

Observations and actions are those of `batched_env`; the fields of the observation are entries of the tensordict, under
their names of `types`. `action_mask` is true for the values that can be carried out. Episodes never end before their
last slot: then they are `truncated`. Worlds whose episode is over begin a new one at the next `reset`, as TorchRL's
rollouts and collectors do it.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from coinfer.envs.batched_env import make_batched_env
from coinfer.envs.rewards import Reward
from coinfer.physics import random
from coinfer.scenario.world import BlocksWorld, OffloadWorld


class EdgeEnv(EnvBase):
    """Independent worlds of one scenario.

    Args:
        scenario: a preset, a file, or a compiled world.
        batch_size: number of worlds.
        changes: values to put into the file, by dotted key.
        reward: the scenario's own if None.
        device: of PyTorch.
    """

    def __init__(
        self,
        scenario: str | Path | OffloadWorld | BlocksWorld = "campus",
        batch_size: int = 1,
        changes: Mapping[str, object] | None = None,
        reward: Reward | None = None,
        device: str = "cpu",
    ):
        super().__init__(device=torch.device(device), batch_size=torch.Size([batch_size]))
        self.batched_env = make_batched_env(batch_size, scenario, changes, reward, device)
        self._seed, self._resets = 0, 0
        mask = self.batched_env.mask()
        seen = {name: self._like(field) for name, field in self.batched_env.observe().items()}
        masked = Binary(mask.shape[-1], mask.shape, device=self.device, dtype=torch.bool)
        self.observation_spec = Composite({**seen, "action_mask": masked}, shape=self.batch_size)
        self.action_spec = Categorical(
            mask.shape[-1], torch.Size(mask.shape[:-1]), device=self.device, dtype=torch.int64
        )
        column = torch.Size((batch_size, 1))
        self.reward_spec = Unbounded(column, device=self.device)
        flag = Binary(1, column, device=self.device, dtype=torch.bool)
        flags = {name: flag.clone() for name in ("done", "terminated", "truncated")}
        self.full_done_spec = Composite(flags, shape=self.batch_size)

    def _like(self, field: Tensor) -> Unbounded:
        return Unbounded(field.shape, device=self.device, dtype=field.dtype)

    def _reset(self, tensordict: TensorDictBase | None = None, **_: object) -> TensorDictBase:
        finished = None if tensordict is None else tensordict.get("_reset", None)
        number = torch.arange(self.batch_size[0], device=self.device) + self._resets * self.batch_size[0]
        self.batched_env.reset(
            random.key(torch.full_like(number, self._seed), number), None if finished is None else finished[:, 0]
        )
        self._resets += 1
        false = torch.zeros(*self.batch_size, 1, dtype=torch.bool, device=self.device)
        return self._tensordict(self.batched_env.observe(), done=false, terminated=false, truncated=false)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        transition = self.batched_env.step(tensordict["action"])
        finished = transition.truncated[:, None]
        reward = transition.reward[:, None].to(torch.float32)
        flags = {"done": finished, "terminated": torch.zeros_like(finished), "truncated": finished.clone()}
        return self._tensordict(transition.observation, reward=reward, **flags)

    def _tensordict(self, observation: dict[str, Tensor], **more: Tensor) -> TensorDict:
        fields = {**observation, "action_mask": self.batched_env.mask(), **more}
        return TensorDict(fields, batch_size=self.batch_size, device=self.device)

    def _set_seed(self, seed: int | None) -> None:
        self._seed, self._resets = 0 if seed is None else seed, 0

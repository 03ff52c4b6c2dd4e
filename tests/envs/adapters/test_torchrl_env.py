"""The TorchRL environment: TorchRL's own checker, masks, seeds and the ends of episodes."""

import numpy as np
import pytest
import torch
from tensordict import TensorDictBase
from tests.envs.worlds import random_blocks, random_world
from torchrl.envs.utils import check_env_specs

from coinfer.envs.adapters.gymnasium_env import EdgeVector
from coinfer.envs.adapters.torchrl_env import EdgeEnv


@pytest.mark.parametrize("scenario", ["campus", "cdo-dsac", "grle", "sacd", "mtl-a3c", "city"])
def test_torchrl_finds_nothing_wrong(scenario):
    check_env_specs(EdgeEnv(scenario, batch_size=2))


def test_rollouts_go_on_over_the_ends_of_episodes():
    world = random_world(np.random.default_rng(0))
    env = EdgeEnv(world, batch_size=3)
    env.set_seed(1)
    found = env.rollout(3 * world.edge.slots, break_when_any_done=False)
    ends = torch.arange(1, 3 * world.edge.slots + 1) % world.edge.slots == 0
    assert torch.equal(found["next", "truncated"][..., 0], ends.expand(3, -1))
    assert torch.equal(found["next", "done"], found["next", "truncated"])
    assert not found["next", "terminated"].any()
    starts = found["server_backlog_s"][:, :: world.edge.slots]
    assert (starts == 0).all()
    masks = [found["task_mask"][:, i * world.edge.slots :][:, : world.edge.slots] for i in range(3)]
    assert not torch.equal(masks[0], masks[1]) or not torch.equal(masks[1], masks[2])


def test_the_same_seed_gives_the_same_rollout():
    env, again = (EdgeEnv(random_world(np.random.default_rng(1)), batch_size=2) for _ in range(2))

    def policy(tensordict: TensorDictBase) -> TensorDictBase:
        return tensordict.set("action", tensordict["action_mask"].int().argmax(-1))

    rollouts = []
    for one, seed in ((env, 4), (again, 4), (env, 5)):
        one.set_seed(seed)
        rollouts.append(one.rollout(4, policy))
    assert (rollouts[0] == rollouts[1]).all()
    assert not (rollouts[0]["uplink_bps"] == rollouts[2]["uplink_bps"]).all()


@pytest.mark.parametrize("make", [random_world, random_blocks])
def test_it_does_what_the_gymnasium_environment_does(make):
    world = make(np.random.default_rng(3))
    env, envs = EdgeEnv(world, batch_size=4), EdgeVector(4, world)
    env.set_seed(2)
    seen = env.reset()
    envs.batched_env.state = env.batched_env.state
    envs.action_space.seed(0)
    for _ in range(world.edge.slots - 1):
        action = envs.action_space.sample()
        fields, reward, *_ = envs.step(action)
        seen = env.step(seen.set("action", torch.as_tensor(action)))["next"]
        np.testing.assert_allclose(seen["reward"][:, 0].numpy(), reward, rtol=1e-6)
        for name, value in fields.items():
            np.testing.assert_array_equal(seen[name].numpy(), value)

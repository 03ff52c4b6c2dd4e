"""Train an agent of stable-baselines3 in a scenario: PPO in SAC-d's world, 64 copies of which step in one call.

pip install '.[train,adapters]'
python examples/sb3.py [STEPS]
"""

import sys

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

import coinfer


def mean_reward(agent: PPO, worlds: VecNormalize, slots: int = 50) -> float:
    """Return the mean reward of a slot, over some slots of every world."""
    worlds.training = False
    worlds.seed(2)
    seen, total = worlds.reset(), 0.0
    for _ in range(slots):
        seen, _, _, _ = worlds.step(agent.predict(seen, deterministic=True)[0])
        total += float(worlds.get_original_reward().mean())
    worlds.training = True
    return total / slots


def main(steps: int = 60_000) -> tuple[float, float]:
    torch.set_num_threads(1)
    worlds = VecNormalize(coinfer.make_sb3_env("sacd", num_envs=64), clip_obs=5.0)
    agent = PPO("MultiInputPolicy", worlds, n_steps=32, batch_size=256, gamma=0.0, learning_rate=1e-3, seed=1)
    before = mean_reward(agent, worlds)
    agent.learn(steps)
    after = mean_reward(agent, worlds)
    print(f"mean reward of a slot: untrained {before:.3f}, after {steps} steps {after:.3f}")
    return before, after


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

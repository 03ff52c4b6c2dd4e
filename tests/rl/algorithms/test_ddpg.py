"""Batched DDPG is so many single ones, against plain PyTorch; rewards are centred by the task."""

from dataclasses import replace

import pytest
import torch
from tests.policies.learned.test_nets import keys, plain
from tests.rl.algorithms.test_sac import random_batch

from coinfer.policies.learned.nets import Mlp
from coinfer.rl.algorithms.ddpg import Ddpg, DdpgSettings
from coinfer.rl.core.records import Transition

TASKS, CHOICES = 3, 4
SETTINGS = DdpgSettings(
    form="flat", gamma=0.9, tau=0.1, actor_learning_rate=1e-2, critic_learning_rate=2e-2, reward_scale=0.5,
    centring=0.0, max_grad_norm=None, output_penalty=0.1,
)  # fmt: skip


def batch_of(seed: int, learners: int) -> Transition:
    """Actions are the outputs that were carried out."""
    batch = random_batch(seed, learners, 32, TASKS, CHOICES, by_task=True)
    generator = torch.Generator().manual_seed(1000 + seed)
    return batch._replace(action=2 * torch.rand(batch.mask.shape, generator=generator) - 1)


def ddpg_of(settings: DdpgSettings, learners: int) -> Ddpg:
    actor, critic = Mlp(5, (16,), TASKS, CHOICES), Mlp(5 + TASKS * CHOICES, (16,), 1, 1)
    return Ddpg(settings, actor, critic, keys(learners))


class Reference:
    """Lillicrap's update (2016) for one learner, with PyTorch's modules and optimisers."""

    def __init__(self, ddpg: Ddpg, learner: int):
        assert isinstance(ddpg.actor, Mlp)
        self.actor = plain(ddpg.actor, ddpg.actor_flat[learner])
        self.critic = plain(ddpg.critic, ddpg.critic_flat[learner])
        self.target_actor = plain(ddpg.actor, ddpg.targets[0][learner])
        self.target_critic = plain(ddpg.critic, ddpg.targets[1][learner])
        self.adams = [
            torch.optim.Adam(self.actor.parameters(), SETTINGS.actor_learning_rate),
            torch.optim.Adam(self.critic.parameters(), SETTINGS.critic_learning_rate),
        ]

    @staticmethod
    def value(critic: torch.nn.Module, features: torch.Tensor, outputs: torch.Tensor, task_mask: torch.Tensor):
        return critic(torch.cat((features, (outputs * task_mask[..., None]).flatten(1)), 1))[:, 0]

    def update(self, b: Transition) -> None:
        with torch.no_grad():
            after = self.target_actor(b.next_features).tanh().unflatten(1, (TASKS, CHOICES))
            ahead = self.value(self.target_critic, b.next_features, after, b.next_task_mask)
            target = SETTINGS.reward_scale * b.reward.sum(1) + SETTINGS.gamma * b.continues * ahead
        predicted = self.value(self.critic, b.features, b.action, b.task_mask)
        self._step(1, (predicted - target).square().mean())
        raw = self.actor(b.features).unflatten(1, (TASKS, CHOICES))
        size = (raw.square() * b.task_mask[..., None]).sum() / b.task_mask.sum()
        value = self.value(self.critic, b.features, raw.tanh(), b.task_mask).mean()
        self._step(0, SETTINGS.output_penalty * size - value)
        for net, target_net in ((self.actor, self.target_actor), (self.critic, self.target_critic)):
            for old, new in zip(target_net.parameters(), net.parameters(), strict=True):
                old.data.lerp_(new.data, SETTINGS.tau)

    def _step(self, number: int, loss: torch.Tensor) -> None:
        for adam in self.adams:
            adam.zero_grad()
        loss.backward()
        self.adams[number].step()


def test_updates_are_those_of_plain_single_learners():
    ddpg = ddpg_of(SETTINGS, 3)
    references = [Reference(ddpg, learner) for learner in range(3)]
    for step in range(15):
        batch = batch_of(step, 3)
        ddpg.update(batch)
        for learner, reference in enumerate(references):
            reference.update(Transition(*(part[learner] for part in batch)))
    b = batch_of(99, 3)
    outputs = torch.cat((b.features, b.action.flatten(2)), -1)
    pairs = [
        (ddpg.actor, ddpg.actor_flat, "actor", b.features),
        (ddpg.actor, ddpg.targets[0], "target_actor", b.features),
        (ddpg.critic, ddpg.critic_flat, "critic", outputs),
        (ddpg.critic, ddpg.targets[1], "target_critic", outputs),
    ]
    for net, flat, name, inputs in pairs:
        for learner, reference in enumerate(references):
            expected = getattr(reference, name)(inputs[learner])
            torch.testing.assert_close(net(flat, inputs)[learner].flatten(1), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("temperature", [None, 0.3])
def test_a_reward_that_every_task_always_gets_teaches_nothing(temperature: float | None):
    """Centred, it is the same as none at all, whether slots have few tasks or many."""
    settings = replace(SETTINGS, centring=0.01, softmax_temperature=temperature)
    paid, unpaid = ddpg_of(settings, 2), ddpg_of(settings, 2)
    for step in range(5):
        batch = batch_of(step, 2)
        paid.update(batch._replace(reward=-3.0 * batch.task_mask))
        unpaid.update(batch._replace(reward=0.0 * batch.reward))
    assert (paid.mean_reward + 3.0 * settings.reward_scale).abs().max() < 1e-5
    torch.testing.assert_close(paid.critic_flat, unpaid.critic_flat, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(paid.actor_flat, unpaid.actor_flat, atol=1e-4, rtol=1e-4)

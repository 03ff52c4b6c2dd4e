"""Batched soft actor-critics are so many single ones: against plain PyTorch, single and beside others."""

import math

import pytest
import torch
from tests.policies.learned.test_nets import keys, plain
from torch import Tensor

from coinfer.policies.learned.nets import Mlp
from coinfer.rl.algorithms.sac import Sac, SacSettings
from coinfer.rl.core.records import Observation, Transition

SETTINGS = SacSettings(
    gamma=0.9, tau=0.1, actor_learning_rate=1e-2, critic_learning_rate=2e-2, temperature_learning_rate=3e-2,
    initial_temperature=0.5, target_entropy=(0.6, 0.6), max_grad_norm=None,
)  # fmt: skip


def random_batch(seed: int, learners: int, count: int, tasks: int, choices: int, by_task: bool = False) -> Transition:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(learners, count, *shape, generator=generator)

    def mask() -> Tensor:
        allowed = torch.rand(learners, count, tasks, choices, generator=generator) < 0.7
        allowed[..., 0] = True
        return allowed

    masks = mask(), mask()
    action = torch.where(masks[0], torch.rand(masks[0].shape, generator=generator), -1.0).argmax(-1)
    task_mask = torch.rand(2, learners, count, tasks, generator=generator) < (1.0 if tasks == 1 else 0.8)
    reward = normal(tasks) if by_task else normal()
    continues = (torch.rand(learners, count, generator=generator) < 0.8).float()
    return Transition(normal(5), masks[0], task_mask[0], action, reward, continues, normal(5), masks[1], task_mask[1])


class Reference:
    """Christodoulou's update for one learner and one task, with PyTorch's modules, optimisers and distributions."""

    def __init__(self, sac: Sac, learner: int):
        count = len(sac.keys)
        net = sac.actor
        assert isinstance(net, Mlp)
        self.actor = plain(net, sac.actor_flat[learner])
        self.critics = [plain(net, sac.critic_flat[learner + twin * count]) for twin in range(2)]
        self.targets = [plain(net, sac.target_flat[learner + twin * count]) for twin in range(2)]
        self.log_temperature = torch.tensor(math.log(SETTINGS.initial_temperature), requires_grad=True)
        self.adams = [
            torch.optim.Adam(self.actor.parameters(), SETTINGS.actor_learning_rate),
            torch.optim.Adam([p for c in self.critics for p in c.parameters()], SETTINGS.critic_learning_rate),
            torch.optim.Adam([self.log_temperature], SETTINGS.temperature_learning_rate),
        ]

    def policy(self, features: Tensor, mask: Tensor) -> torch.distributions.Categorical:
        return torch.distributions.Categorical(logits=self.actor(features).masked_fill(~mask, -1e9))

    def update(self, b: Transition) -> None:
        temperature = self.log_temperature.exp().detach()
        with torch.no_grad():
            ahead = self.policy(b.next_features, b.next_mask[:, 0])
            least = torch.minimum(*(target(b.next_features) for target in self.targets))
            soft = (ahead.probs * least).sum(-1) + temperature * ahead.entropy()
            target = b.reward + SETTINGS.gamma * b.continues * soft
        loss = sum((critic(b.features).gather(1, b.action)[:, 0] - target).square().mean() for critic in self.critics)
        self._step(1, loss)
        now = self.policy(b.features, b.mask[:, 0])
        with torch.no_grad():
            least = torch.minimum(*(critic(b.features) for critic in self.critics))
        self._step(0, -((now.probs * least).sum(-1) + temperature * now.entropy()).mean())
        target = SETTINGS.target_entropy[0] * b.mask[:, 0].sum(-1).log()
        self._step(2, (self.log_temperature * (now.entropy().detach() - target)).mean())
        for target, critic in zip(self.targets, self.critics, strict=True):
            for old, new in zip(target.parameters(), critic.parameters(), strict=True):
                old.data.lerp_(new.data, SETTINGS.tau)

    def _step(self, number: int, loss: Tensor) -> None:
        for adam in self.adams:
            adam.zero_grad()
        loss.backward()
        self.adams[number].step()


def test_updates_are_those_of_plain_single_learners():
    net = Mlp(5, (16, 16), 1, 4)
    sac = Sac(SETTINGS, net, net, keys(3))
    references = [Reference(sac, learner) for learner in range(3)]
    for step in range(15):
        batch = random_batch(step, 3, 32, 1, 4)
        sac.update(batch)
        for learner, reference in enumerate(references):
            reference.update(Transition(*(part[learner] for part in batch)))
    features = random_batch(99, 3, 20, 1, 4).features
    values, targets = sac.values(sac.critic_flat, features), sac.values(sac.target_flat, features)
    for learner, reference in enumerate(references):
        close = {"atol": 1e-4, "rtol": 1e-4}
        inputs = features[learner]
        torch.testing.assert_close(sac.actor(sac.actor_flat, features)[learner, :, 0], reference.actor(inputs), **close)
        for twin in range(2):
            torch.testing.assert_close(values[twin, learner, :, 0], reference.critics[twin](inputs), **close)
            torch.testing.assert_close(targets[twin, learner, :, 0], reference.targets[twin](inputs), **close)
        torch.testing.assert_close(sac.temperature[learner], reference.log_temperature.exp().detach(), **close)


@pytest.mark.parametrize("by_task", [False, True])
def test_a_learner_does_not_feel_the_others(by_task: bool):
    net = Mlp(5, (16,), 3, 4)
    together, single = Sac(SETTINGS, net, net, keys(4)), Sac(SETTINGS, net, net, keys(4)[2:3])
    for step in range(5):
        batch = random_batch(step, 4, 16, 3, 4, by_task)
        together.update(batch)
        single.update(Transition(*(part[2:3] for part in batch)))
    torch.testing.assert_close(together.actor_flat[2:3], single.actor_flat, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together.critic_flat[[2, 6]], single.critic_flat, atol=1e-5, rtol=1e-5)
    observation = random_batch(9, 4, 50, 3, 4).observation
    one = Observation(*(part[2:3] for part in observation))
    assert (
        together.act(observation, 7)[2:3] == single.act(one, 7)
    ).float().mean() > 0.98  # up to rounding at a boundary


def test_tasks_that_are_not_there_change_nothing():
    net = Mlp(5, (16,), 3, 4)
    first, second = Sac(SETTINGS, net, net, keys(2)), Sac(SETTINGS, net, net, keys(2))
    batch = random_batch(0, 2, 16, 3, 4)
    first.update(batch)
    second.update(batch._replace(action=torch.where(batch.task_mask, batch.action, 0)))
    torch.testing.assert_close(first.critic_flat, second.critic_flat, atol=0, rtol=0)
    torch.testing.assert_close(first.actor_flat, second.actor_flat, atol=0, rtol=0)


def test_copied_learners_go_on_alike():
    net = Mlp(5, (16,), 2, 3)
    sac = Sac(SETTINGS, net, net, keys(3))
    sac.update(random_batch(0, 3, 16, 2, 3))
    sac.copy(torch.tensor([2]), torch.tensor([0]))
    batch = random_batch(1, 3, 16, 2, 3)
    sac.update(Transition(*(part[[2, 1, 2]] for part in batch)))
    for flat in (sac.actor_flat, sac.critic_flat[:3], sac.critic_flat[3:], sac.target_flat[:3], sac.log_temperature):
        torch.testing.assert_close(flat[0], flat[2], atol=1e-6, rtol=0)
        assert not torch.equal(flat[0], flat[1])

"""Batched double DQN is so many single ones: against plain PyTorch; and what is masked is never chosen."""

import pytest
import torch
from tests.policies.learned.test_nets import keys, plain
from tests.rl.algorithms.test_sac import random_batch

from coinfer.policies.learned.nets import Mlp
from coinfer.rl.algorithms.dqn import Dqn, DqnSettings
from coinfer.rl.core.records import Transition

SETTINGS = DqnSettings(gamma=0.9, tau=0.1, learning_rate=1e-2, epsilon=(0.8, 0.8), max_grad_norm=None)


class Reference:
    """Van Hasselt's update (2016) for one learner and one task, with PyTorch's modules and optimiser."""

    def __init__(self, dqn: Dqn, learner: int):
        assert isinstance(dqn.net, Mlp)
        self.net, self.target = plain(dqn.net, dqn.flat[learner]), plain(dqn.net, dqn.target_flat[learner])
        self.adam = torch.optim.Adam(self.net.parameters(), SETTINGS.learning_rate)

    def update(self, b: Transition) -> None:
        with torch.no_grad():
            best = self.net(b.next_features).masked_fill(~b.next_mask[:, 0], -torch.inf).argmax(1, keepdim=True)
            target = b.reward + SETTINGS.gamma * b.continues * self.target(b.next_features).gather(1, best)[:, 0]
        self.adam.zero_grad()
        (self.net(b.features).gather(1, b.action)[:, 0] - target).square().mean().backward()
        self.adam.step()
        for old, new in zip(self.target.parameters(), self.net.parameters(), strict=True):
            old.data.lerp_(new.data, SETTINGS.tau)


def test_updates_are_those_of_plain_single_learners():
    dqn = Dqn(SETTINGS, Mlp(5, (16, 16), 1, 4), keys(3))
    references = [Reference(dqn, learner) for learner in range(3)]
    for step in range(15):
        batch = random_batch(step, 3, 32, 1, 4)
        dqn.update(batch)
        for learner, reference in enumerate(references):
            reference.update(Transition(*(part[learner] for part in batch)))
    features = random_batch(99, 3, 20, 1, 4).features
    close = {"atol": 1e-4, "rtol": 1e-4}
    for learner, reference in enumerate(references):
        inputs = features[learner]
        torch.testing.assert_close(dqn.net(dqn.flat, features)[learner, :, 0], reference.net(inputs), **close)
        torch.testing.assert_close(dqn.net(dqn.target_flat, features)[learner, :, 0], reference.target(inputs), **close)


@pytest.mark.parametrize("explore", [False, True])
def test_what_is_masked_is_never_chosen(explore: bool):
    dqn = Dqn(SETTINGS, Mlp(5, (16,), 3, 4), keys(2))
    observation = random_batch(0, 2, 500, 3, 4).observation
    chosen = dqn.act(observation, 3, explore)
    assert not observation.mask.all()
    assert observation.mask.gather(-1, chosen[..., None]).all()
    assert (chosen != dqn.act(observation, 3, False)).any() == explore

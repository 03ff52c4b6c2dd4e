"""The replay memory keeps the newest steps, and what is drawn follows from key and number alone."""

import pytest
import torch
from tests.policies.learned.test_nets import keys

from coinfer.rl.core.records import Transition
from coinfer.rl.core.replay import Replay


def test_memory_keeps_the_newest_and_draws_by_number():
    like = Transition(*(torch.zeros(2, 3) for _ in range(9)))
    replay = Replay(7, like)
    for step in range(4):
        value = torch.arange(3.0) + 3 * step + torch.tensor([[0.0], [100.0]])
        replay.add(Transition(*(value for _ in range(9))))
    rewards = replay.sample(keys(2), 0, 500).reward
    assert set(rewards[0].tolist()) == set(range(5, 12))
    assert set(rewards[1].tolist()) == set(range(105, 112))
    again = replay.sample(keys(2)[1:], 0, 500, ring=torch.tensor([1])).reward
    torch.testing.assert_close(again[0], rewards[1])
    assert not torch.equal(replay.sample(keys(2), 1, 500).reward, rewards)
    copy = Replay(7, like)
    copy.restore(replay.tensors())
    torch.testing.assert_close(copy.sample(keys(2), 5, 50), replay.sample(keys(2), 5, 50))


def test_more_steps_at_once_than_the_memory_holds_are_refused():
    like = Transition(*(torch.zeros(1, 5) for _ in range(9)))
    with pytest.raises(ValueError, match="5 records at once do not fit into a replay memory of 4"):
        Replay(4, like).add(like)

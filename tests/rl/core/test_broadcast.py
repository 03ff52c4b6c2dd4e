"""The updater believes what it measures and nothing else."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from coinfer.rl.core.broadcast import broadcast, select_best


def test_a_liar_is_not_chosen():
    true = torch.tensor([[-5.0, -4.0, -9.0, -6.0, -7.0], [-1.0, -2.0, -3.0, -8.0, -2.5]])
    said = true.clone()
    said[0, 2], said[1, 3] = 1e9, 1e9
    selection = select_best(lambda: true.flatten(), 5, said.flatten())
    assert selection.best.tolist() == [1, 0]
    assert selection.doubtful.nonzero().tolist() == [[0, 2], [1, 3]]


def test_an_agent_whose_networks_broke_is_not_chosen():
    selection = select_best(lambda: torch.tensor([torch.nan, -3.0, torch.inf]), 3)
    assert selection.best.tolist() == [1]
    assert selection.doubtful.tolist() == [[True, False, True]]


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 1000))
def test_the_best_of_each_group_goes_to_all_others_of_it(groups, agents, seed):
    returns = torch.rand(groups * agents, generator=torch.Generator().manual_seed(seed))
    owner = torch.arange(groups * agents)
    source, to = broadcast(select_best(lambda: returns, agents))
    owner[to] = owner[source]
    expected = returns.unflatten(0, (groups, agents)).argmax(-1) + torch.arange(groups) * agents
    assert owner.tolist() == expected.repeat_interleave(agents).tolist()

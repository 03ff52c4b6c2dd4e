"""Random numbers of policies."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coinfer.policies.sampling import spread


@given(st.floats(-5, 5), st.integers(1, 120), st.floats(0, 1), st.integers(0, 60))
def test_spread_numbers_share_out_any_neighbours_in_proportion(first, count, share, begin):
    numbers = spread(torch.tensor(first, dtype=torch.float64), begin + count)[begin:]
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert (numbers < share).sum() == pytest.approx(share * count, abs=3)


def test_spread_numbers_begin_with_the_fraction_of_the_first():
    found = spread(torch.tensor([2.25, -0.5]), 2)
    assert found[:, 0].tolist() == [0.25, 0.5]
    assert found[:, 1].tolist() == pytest.approx([0.868034, 0.118034])

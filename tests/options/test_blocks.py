"""Blocks of equal arithmetic against all ways to cut."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coinfer.options.blocks import blocks_of, even_blocks
from coinfer.options.chain import Encoding, SizeError
from coinfer.options.network import ChainCut
from coinfer.scenario.tables import open_network


@given(st.lists(st.integers(0, 50), min_size=1, max_size=9), st.data())
@settings(max_examples=100, deadline=None)
def test_blocks_are_as_even_as_any(work: list[int], data: st.DataObject):
    blocks = data.draw(st.integers(1, len(work)))
    done = np.concatenate([[0], np.cumsum(work)])
    cuts = [
        ChainCut(tensors=("t",), kind="", elements=1, done_s=0, done_flop=flop, enter_s=0, leave_s=0, payload_bits={})
        for flop in done.tolist()
    ]
    chosen = even_blocks(cuts, blocks)
    assert len(chosen) == blocks + 1
    assert (chosen[0], chosen[-1]) == (0, len(work))
    assert all(a < b for a, b in itertools.pairwise(chosen))
    every = ((0, *inner, len(work)) for inner in itertools.combinations(range(1, len(work)), blocks - 1))
    assert np.diff(done[list(chosen)]).max() == min(np.diff(done[list(one)]).max() for one in every)


def test_more_blocks_than_there_are_cuts():
    with pytest.raises(ValueError, match="has 12 blocks at most"):
        even_blocks(open_network("nin").exits[0], 13)


def test_sizes_of_blocks_are_those_of_what_they_take_in():
    cuts = open_network("nin").exits[0]
    blocks = blocks_of(cuts, 3, Encoding((4, 8)))
    inner = [cuts[i].payload_bits[4] for i in blocks.cuts[1:-1]]
    np.testing.assert_array_equal(blocks.input_bits, [cuts[0].payload_bits[8], *inner])  # a picture is its own bytes
    plain = blocks_of(cuts, 3, Encoding((16,), plain=True))
    assert plain.input_bits.tolist() == [8 * cuts[0].elements, *(16 * cuts[i].elements for i in plain.cuts[1:-1])]
    unknown = [cut.model_copy(update={"payload_bits": {32: 1e6}}) for cut in cuts]
    with pytest.raises(SizeError, match=r"no measured size of tensor '\S+' at 4 bits"):
        blocks_of(unknown, 3, Encoding((4, 8)))

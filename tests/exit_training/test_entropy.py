"""The experiment on entropy coding counts what it should, and every way gives the symbols back."""

import numpy as np
import pytest
from tests.exit_training.bottlenecks import small_bottleneck, stripes
from tests.experiments import script

from coinfer.runtime.codec.symbols import HEADER_BYTES, symbol_codec


@pytest.fixture
def entropy():
    with script("bottlenecks", "entropy") as module:
        yield module


def test_information_of_symbols_by_hand(entropy):
    """A channel that is constant, one of four values alike, and a picture of 2 x 2 places: 2 bits at each place."""
    rows = entropy.Rows(entropy.channels_of, lambda v, shape: v.reshape(shape), 4)
    known = np.zeros((3000, 2, 2, 2), np.uint8)
    known[:, 1] = np.arange(3000 * 4).reshape(3000, 2, 2) % 4
    assert entropy.ideal_bytes(rows, known, known[:8]) == pytest.approx(1.0, abs=0.01)


def test_every_way_of_coding_gives_the_symbols_back(entropy):
    graph = small_bottleneck()
    assert graph.bottleneck is not None
    code = graph.bottleneck.codes[-1]
    known, new = (
        entropy.symbols_of(graph, stripes(count, seed).images)[code.tensor] for count, seed in ((600, 4), (20, 5))
    )
    found = {row["coder"]: row["bytes"] for row in entropy.rows_of(graph, code, known, new)}
    codec = symbol_codec(graph, code.tensor)
    assert codec is not None
    assert found["packed"] == 4 * 4 * 4 * 2 / 8
    assert found["prefix codes (used)"] == np.mean(
        [len(codec.encode(new[k : k + 1])) - HEADER_BYTES for k in range(20)]
    )
    assert found["ideal, by group of channels"] < found["prefix codes (used)"]
    assert found["zstd 19, trained dictionary"] > 0

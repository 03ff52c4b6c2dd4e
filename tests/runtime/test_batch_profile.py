"""What is measured of batches, on a clock that only the measured runs move."""

import pytest

from coinfer.graph.zoo import networks
from coinfer.runtime.batch_profile import BatchCache, BatchProfile, measure_batches

GRAPH = networks.build("alexnet-cifar")
INPUT, OUTPUT = GRAPH.inputs[0], GRAPH.outputs[0]


class Engine:
    """Takes `seconds(b)` for b samples, and answers their means."""

    def __init__(self, seconds, mixes=False):
        self.now_s = 0.0
        self.seconds = seconds
        self.mixes = mixes

    def run(self, arrays):
        x = arrays[INPUT]
        self.now_s += self.seconds(len(x))
        return [x.mean(axis=(1, 2, 3)).reshape(-1, 1) + (x.max() if self.mixes else 0)]

    def measure(self) -> BatchProfile:
        return measure_batches(GRAPH, (INPUT,), (OUTPUT,), self.run, lambda: self.now_s)


def test_times_are_those_of_the_engine():
    profile = Engine(lambda b: 0.006 + 0.004 * b).measure()
    assert profile.sizes == (1, 2, 4, 8, 16)
    assert profile.ratios == pytest.approx([1.0, 1.4, 2.2, 3.8, 7.0])
    assert profile.reason == ""
    assert "bit-equal" in profile.sentence()
    assert profile.limited(4).times.limit == 4


def test_no_larger_size_than_gains_more():
    profile = Engine(lambda b: 0.001 * (b + (3 if b < 8 else 9))).measure()
    assert profile.sizes == (1, 2, 4)


def test_what_is_not_faster_is_not_batched():
    assert Engine(lambda b: 0.01 * b).measure().reason == "that is not faster here"
    assert Engine(lambda b: 0.98 * 0.01 * b).measure().reason == "that is not faster here"
    assert Engine(lambda b: 1.0 + 0.1 * b).measure().reason == "it is too slow for that"


def test_a_network_that_mixes_its_samples_is_not_batched():
    profile = Engine(lambda b: 0.006 + 0.004 * b, mixes=True).measure()
    assert profile.times.limit == 1
    assert profile.difference > 0.01
    assert profile.sentence().startswith("not batched: answers differ by ")


def test_the_cache_keeps_pieces_apart_and_survives_damage(tmp_path):
    cache = BatchCache(tmp_path / "folder" / "net.json")
    profile = BatchProfile(sizes=(1, 2), ratios=(1.0, 1.5), difference=1e-7)
    cache.put("x to y", profile)
    cache.put("z to y", BatchProfile(reason="that is not faster here"))
    assert cache.get("x to y") == profile
    other = cache.get("z to y")
    assert other is not None
    assert other.reason == "that is not faster here"
    assert cache.get("w to y") is None
    cache.path.write_text("{")
    assert cache.get("x to y") is None

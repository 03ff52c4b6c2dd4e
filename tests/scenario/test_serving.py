"""How a scenario's file becomes servers that batch and load, and what may be wrong with it."""

import numpy as np
import pytest
from tests.scenario.worlds import SMALL

from coinfer.errors import ScenarioError
from coinfer.scenario.arrivals import markov_arrivals
from coinfer.scenario.compile import compile_scenario, fingerprint, open_world
from coinfer.scenario.load import read

BATCHES = """\
  - catalogue: desktop
    capacity: 6
    batching: {sizes: [1, 2, 4], times: {alexnet: [10, 12, 20]}}
"""


def compiled(text: str):
    return compile_scenario(read(text, "my.yaml", None, None))


def test_a_batch_takes_its_ratio_on_a_line_between_measured_sizes():
    serving = compiled(SMALL.replace("  - catalogue: desktop\n", BATCHES)).world.serving
    assert serving.batch_ratio[0, 1].tolist() == pytest.approx([1.0, 1.2, 1.6, 2.0])
    assert serving.batch_ratio[0, 0].tolist() == [1.0, np.inf, np.inf, np.inf]
    assert not serving.loads


def test_batches_are_a_part_of_the_fingerprint():
    world = compiled(SMALL.replace("  - catalogue: desktop\n", BATCHES)).world
    assert fingerprint(world) != fingerprint(world._replace(serving=None))


def test_loading_takes_a_constant_and_the_size_over_the_speed():
    memory = "capacity: 4, memory_bytes: 3.0e+8, load_bytes_per_s: 1.0e+8, load_s: 0.5".replace(", ", "\n    ")
    text = SMALL.replace("capacity: 4", memory).replace("desktop", "desktop\n    capacity: 5")
    text = text.replace("deadline_s: 0.5", "deadline_s: 0.5\n    size_bytes: 2.0e+8")
    serving = compiled(text).world.serving
    assert serving.load_s[0].tolist() == [2.5, 0.0]
    assert serving.memory_bytes.tolist() == [3e8, np.inf]
    with pytest.raises(ScenarioError, match=r"models\[0\]\.size_bytes: expected at most 3e\+08"):
        compiled(text.replace("    size_bytes: 2.0e+8\n", ""))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    capacity: 6\n", "", r"servers\[1\]\.capacity: missing"),
        ("[1, 2, 4]", "[2, 3, 4]", r"servers\[1\]\.batching\.sizes: expected rising numbers from 1"),
        ("[10, 12, 20]", "[10, 12]", r"times\.alexnet: got 2 times, expected 3"),
        ("alexnet: [10", "vgg16: [10", r"times\.vgg16: no such network in models; expected one of alexnet"),
    ],
)
def test_a_mistake_gives_one_line(old: str, new: str, message: str):
    with pytest.raises(ScenarioError, match=message):
        compiled(SMALL.replace("  - catalogue: desktop\n", BATCHES.replace(old, new)))


def test_markov_arrivals_stay_in_a_state_as_long_as_they_should():
    arrivals = markov_arrivals([10.0, 40.0, 20.0], stay_s=2.0, slot_s=0.1, max_tasks=20)
    changes = np.flatnonzero(np.diff(arrivals.level))
    assert np.diff(changes).mean() * 0.1 == pytest.approx(2.0, rel=0.1)
    assert np.bincount(arrivals.level) / len(arrivals.level) == pytest.approx([1 / 3] * 3, abs=0.05)
    assert arrivals.mean == pytest.approx(0.1 * np.mean([10, 40, 20]), rel=0.1)


def test_networks_take_over_each_others_shares():
    mix = np.diff(open_world("many-models").world.edge.model_mix, axis=1, prepend=0.0)
    assert mix.sum(axis=1) == pytest.approx(np.ones(4))
    assert mix[1] == pytest.approx(np.roll(mix[0], 6))

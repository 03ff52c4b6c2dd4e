"""Code was moved and renamed; what it computes is as it was recorded before.

`golden.json` was written by `python -m tests.parity.golden` at commit e933984, before the packages were rearranged, on
the machine that stands in it: an Intel Xeon (AVX-512) under Linux. There the choices of policies and the bit patterns
of trainings must be equal. On another processor, or with other versions of torch, NumPy or ONNX Runtime, arithmetic
differs in its last bits: then choices and results may differ as far as `figures.differences` says, and bit patterns are
not compared. Names, cuts, options and bytes on the wire must be equal everywhere.

Who changes what is computed on purpose records it anew, and says so: scenarios `sacd` and `sacd-cifar`, and SAC-d's and
DQN's trainings in them, were, when 16 bits joined their actions; these trainings again, when their schedules came
to span the steps that are asked for; scenarios `grle`
and `mtl-a3c`, when they were calibrated to their papers' ratios, and Greedy for blocks began to count the slot's other
tasks; `grle` again, when the accuracies of its exits were measured.
"""

import json

import pytest
from tests.parity import golden
from tests.parity.figures import differences, machine, packed

RECORDED = json.loads(golden.FILE.read_text(encoding="utf-8"))
SAME_MACHINE = RECORDED["machine"] == machine()
LONG = ("training dqn", "training sac-d", "network vgg16", "options vgg16")


def test_nothing_that_was_recorded_is_left_out():
    assert list(golden.CASES) == list(RECORDED["cases"])


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.slow) if c in LONG else c for c in RECORDED["cases"]]
)
def test_it_is_as_it_was(case: str):
    assert differences(RECORDED["cases"][case], golden.of(case), SAME_MACHINE) == []


def test_a_difference_is_found():
    """The comparison itself: exact where it must be, and no more than that."""
    one = {"a": 1, "b": [1.0, {"Packed": packed([[1, 2, 3]])["Packed"]}], "w": {"Digests": ["x", "y"]}}
    other = {"a": 1, "b": [1.00001, {"Packed": packed([[1, 2, 4]])["Packed"]}], "w": {"Digests": ["y"]}}
    assert differences(one, one, True) == []
    assert differences(one, other, True) == [" b[1]: 1 of 3 choices are others", " w: 1 of 2 tensors are others"]
    assert differences({"a": 1.0}, {"a": 1.005}, True) == [" a: recorded 1.0, found 1.005"]
    assert differences({"a": 1.0}, {"a": 1.005}, False) == []
    assert differences({"a": 1.0}, {"a": 1.05}, False) == [" a: recorded 1.0, found 1.05"]
    assert differences({"loose": [1.0]}, {"loose": [1.1]}, False) == []
    assert differences({"a": "x"}, {"a": "y"}, False) == [" a: recorded 'x', found 'y'"]

"""What holds for every test.

Property tests draw the same examples in every run, so that a run says something about the change it tests and not about
luck. To look for new counterexamples, roll the dice anew: `pytest --hypothesis-profile=dice`. No example has a deadline
and none is refused for being slow: how long one takes says nothing on a machine with other work to do.
"""

import os
import random
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "same", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("dice", settings.get_profile("same"), derandomize=False, print_blob=True)
settings.load_profile("same")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """With `-n auto`, as many processes as this one may use cores; each takes whole files (`--dist loadfile`)."""
    return min(len(os.sched_getaffinity(0)), 8) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Whatever draws without a generator of its own draws the same in any order of tests."""
    random.seed(0)
    np.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)

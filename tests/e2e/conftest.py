"""What the tests of faults and overload measure and compute once."""

import numpy as np
import pytest
from tests.e2e.driving import GRAPH, PICTURES

from coinfer.profile.table import ProfileTable
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import preprocess
from coinfer.runtime.profiling import measure_with_codec, samples_for


@pytest.fixture(scope="session")
def table() -> ProfileTable:
    return measure_with_codec(GRAPH, 1, samples_for(GRAPH))


@pytest.fixture(scope="session")
def exact() -> list[np.ndarray]:
    """The right answer to each picture."""
    assert GRAPH.image is not None
    executor = Executor(GRAPH)
    inputs = [{GRAPH.inputs[0]: preprocess(picture, GRAPH.image)} for picture in PICTURES]
    return [executor.run(found)[0][GRAPH.outputs[0]] for found in inputs]

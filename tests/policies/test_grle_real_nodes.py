"""What several devices ask together is decided together, and each gets its own part of the decision."""

import threading
from multiprocessing import Pipe

import numpy as np
import pytest
from tests.experiments import script

from coinfer.types import OffloadDecision, OffloadObservation, fields_of

SIZES = {"K": 1, "O": 2, "N": 3}


def observed(device: int, age_s: tuple[float, float, float]) -> OffloadObservation[np.ndarray]:
    """An observation of one task, all of whose numbers but the ages are its device's."""
    fields = fields_of(OffloadObservation)
    shapes = {name: tuple(SIZES[axis] for axis in field.axes if axis != "B") for name, field in fields.items()}
    parts = {name: np.full(shape, float(device)) for name, shape in shapes.items()}
    return OffloadObservation(**parts | {"observation_age_s": np.array(age_s)})


@pytest.fixture
def together():
    with script("grle", "together") as module:
        yield module


def test_one_decision_for_all_that_ask_and_a_part_of_it_for_each(together):
    seen: list[OffloadObservation[np.ndarray]] = []

    def decide(observation: OffloadObservation[np.ndarray]) -> OffloadDecision[np.ndarray]:
        seen.append(observation)
        return OffloadDecision(observation.deadline_s.astype(int), observation.device_backlog_s.astype(int) + 10)

    ends = [Pipe() for _ in range(3)]
    decider = together.Decider([own for own, _ in ends], {"all": decide}, patience_s=60.0)
    decider.start()
    made: dict[int, OffloadDecision[np.ndarray]] = {}
    ages = ((0.0, 5.0, 5.0), (5.0, 0.0, 5.0), (5.0, 5.0, 0.0))

    def ask(device: int) -> None:
        asking = together.Asking(ends[device][1], "all")
        made[device] = asking(observed(device, ages[device]))

    threads = [threading.Thread(target=ask, args=(device,)) for device in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {device: (int(part.option[0]), int(part.server[0])) for device, part in made.items()} == {
        device: (device, device + 10) for device in range(3)
    }
    assert len(seen) == 1
    assert seen[0].option_server_s.shape == (3, 2, 3)
    np.testing.assert_array_equal(seen[0].server_backlog_s, [0.0, 1.0, 2.0])
    np.testing.assert_array_equal(seen[0].observation_age_s, [0.0, 0.0, 0.0])
    for _, theirs in ends:
        theirs.close()
    decider.join()


def test_who_asks_later_is_not_waited_for(together):
    ends = [Pipe() for _ in range(2)]
    policy = lambda o: OffloadDecision(np.zeros(len(o.deadline_s), int), np.full(len(o.deadline_s), len(o.deadline_s)))  # noqa: E731
    decider = together.Decider([own for own, _ in ends], {"all": policy}, patience_s=0.0)
    decider.start()
    assert together.Asking(ends[0][1], "all")(observed(0, (0.0, 0.0, 0.0))).server.tolist() == [1]
    for _, theirs in ends:
        theirs.close()
    decider.join()

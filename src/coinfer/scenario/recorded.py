"""Requests that come as they were recorded, from a CSV file.

Each row is one request: `time_s` from the beginning of the episode, and the numbers from 0 of its `device` and of its
`model` among those of the scenario. Other columns are ignored, and rows may come in any order.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coinfer.errors import short_repr
from coinfer.scenario.load import Source
from coinfer.scenario.spec import BaseScenario
from coinfer.scenario.traces import DATA_VARIABLE, find_file
from coinfer.scenario.world import RecordedTasks
from coinfer.traces import TraceError, parse_number, read_columns, read_rows

COLUMNS = ("time_s", "device", "model")


class RecordedRequest(NamedTuple):
    """One request."""

    time_s: float
    """From the beginning of the episode."""
    device: int
    model: int


def slot_of(request: RecordedRequest, slot_s: float) -> int:
    """Return the slot in which a request comes.

    Args:
        request: of an episode.
        slot_s: length of a slot.
    """
    return int(request.time_s / slot_s + 1e-9)


def load_requests(path: Path) -> list[RecordedRequest]:
    """Return the requests of a file.

    Args:
        path: of the CSV file.

    Raises:
        TraceError: naming file and line.
    """
    read_columns(path, COLUMNS)
    found: list[RecordedRequest] = []
    for line, row in read_rows(path):
        time_s, device, model = (parse_number(path, line, row, name) for name in COLUMNS)
        if device != int(device) or model != int(model):
            raise TraceError(f"{path}:{line}: expected whole numbers of a device and of a model")
        found.append(RecordedRequest(time_s, int(device), int(model)))
    if not found:
        raise TraceError(f"{path}: holds no request")
    return found


def build_recorded(spec: BaseScenario, file: str, source: Source) -> tuple[RecordedTasks, int]:
    """Return the tasks of each slot of an episode, and how many requests come after it.

    Args:
        spec: how many devices and networks there are, and how long an episode is.
        file: of the requests.
        source: locates files and errors.

    Raises:
        ScenarioError: if there is no such file, or the scenario has no such device, network or place in a slot.
        TraceError: if the file cannot be used.
    """
    key = ("arrivals", "file")
    path = find_file(file, source.folder)
    if path is None:
        where = f"beside the scenario, in {DATA_VARIABLE} or among those shipped"
        raise source.error(key, f"no file {short_repr(file)} {where}")
    requests = sorted(load_requests(path))
    for name, count in (("device", sum(one.count for one in spec.devices)), ("model", len(spec.models))):
        most = max(getattr(one, name) for one in requests)
        if most >= count:
            raise source.error(key, f"{file} has {name} {most}, expected numbers below {count}")
    slots = np.array([slot_of(one, spec.slot_s) for one in requests])
    inside = [one for one, slot in zip(requests, slots, strict=True) if slot < spec.slots]
    most = int(np.bincount(slots[: len(inside)], minlength=1).max())
    if most > spec.tasks_per_slot:
        raise source.error(("tasks_per_slot",), f"got {spec.tasks_per_slot}, but {file} has {most} requests in a slot")
    return _tasks(inside, slots[: len(inside)].tolist(), spec.slots, spec.tasks_per_slot), len(requests) - len(inside)


def _tasks(requests: Sequence[RecordedRequest], slots: Sequence[int], length: int, width: int) -> RecordedTasks:
    task_mask = np.zeros((length, width), dtype=bool)
    device, model = np.zeros((2, length, width), dtype=np.int64)
    for slot, one in zip(slots, requests, strict=True):
        place = int(task_mask[slot].sum())
        task_mask[slot, place], device[slot, place], model[slot, place] = True, one.device, one.model
    return RecordedTasks(task_mask, device, model)

"""The run log keeps every record that it reported."""

import json
import math
from pathlib import Path

import pytest

from coinfer import records
from coinfer.types import Hop, Outcome, Route

OUTCOME = Outcome(0.1, 0.2, 0.0, 0.3, 0.01, 0.61, 0.0, 1.0, True, True)
ROUTE = Route((Hop("device", ("x",), 8), Hop("127.0.0.1:8001", ("y",), 32)), 0, math.inf)


def record(i: int) -> records.Record:
    return records.Record("planner", i, 0.5 * i, 1e6, ROUTE, "127.0.0.1:8001", "", 0.6, 1e5, OUTCOME)


def test_what_is_appended_is_read_back(tmp_path: Path):
    path = tmp_path / "runs" / "log.jsonl"
    with records.RunLog(path) as log:
        for i in range(3):
            log.append(record(i))
    found = list(records.read(path))
    assert [entry["request"] for entry in found] == [0, 1, 2]
    assert found[1]["route"]["hops"][1] == {"node": "127.0.0.1:8001", "cut": ["y"], "bits": 32}
    assert found[1]["route"]["deadline_s"] is None, "JSON has no infinity"
    assert found[2]["outcome"]["latency_s"] == 0.61


def test_opening_again_appends(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    for i in range(2):
        with records.RunLog(path) as log:
            log.append(record(i))
    assert [entry["request"] for entry in records.read(path)] == [0, 1]


def test_a_torn_last_line_is_left_out_and_a_damaged_one_is_named(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    with records.RunLog(path) as log:
        log.append(record(0))
    path.write_text(path.read_text() + '{"request": 1, "at')
    assert [entry["request"] for entry in records.read(path)] == [0]
    path.write_text("nonsense\n" + json.dumps({"request": 1}) + "\n")
    with pytest.raises(records.RecordError, match=r"log\.jsonl:1: not a JSON object"):
        list(records.read(path))

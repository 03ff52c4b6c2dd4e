"""The run log keeps every record that it reported."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from tests.paths import ROOT

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
    entries = list(records.read(path))
    assert [entry["request"] for entry in entries] == [0, 1, 2]
    assert entries[1]["route"]["hops"][1] == {"node": "127.0.0.1:8001", "cut": ["y"], "bits": 32}
    assert entries[1]["route"]["deadline_s"] is None, "JSON has no infinity"
    assert entries[2]["outcome"]["latency_s"] == 0.61


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


FULL_DISK = """
import resource, sys
from pathlib import Path
from coinfer import records
from tests.test_records import record

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
log = records.RunLog(Path(sys.argv[1]))
try:
    for i in range(100):
        log.append(record(i))
except records.RecordError as error:
    print(i, error)
"""


def test_a_full_disk_leaves_whole_lines(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    written, _, message = done.stdout.strip().partition(" ")
    assert message.startswith(f"{path}: cannot write this record: ")
    assert 0 < int(written) < 100
    assert path.read_text().endswith("\n"), "nothing of the record that did not fit"
    assert [entry["request"] for entry in records.read(path)] == list(range(int(written)))


def test_values_that_json_does_not_have_become_null():
    assert records.as_json({"a": math.inf, "b": [math.nan, 1.0], "c": OUTCOME._replace(energy_j=math.inf)})["a"] is None
    assert json.dumps(records.as_json({"b": (math.nan, 1.0)})) == '{"b": [null, 1.0]}'

"""Scenarios whose requests come from a file."""

from pathlib import Path

import pytest
from tests.scenario.worlds import SMALL

from coinfer.errors import ScenarioError, UserError
from coinfer.scenario.compile import Compiled, compile_scenario, fingerprint
from coinfer.scenario.load import read

RECORDED = SMALL.replace("{kind: poisson, rate_per_s: 4}", "{kind: recorded, file: r.csv}")
ROWS = "time_s,device,model,who\n0.7,1,0,b\n0.1,0,0,a\n0.99,0,0,c\n9.6,1,0,d\n10.0,1,0,after the episode\n"


def compiled(folder: Path, rows: str, text: str = RECORDED) -> Compiled:
    (folder / "r.csv").write_text(rows)
    return compile_scenario(read(text, "x", folder))


def test_requests_come_in_their_slots(tmp_path: Path):
    found = compiled(tmp_path, ROWS)
    record = found.world.edge.recorded
    assert record.task_mask.sum(axis=1).tolist() == [1, 2, *[0] * 17, 1]
    assert record.device[1, :2].tolist() == [1, 0]
    assert found.notes == ("1 requests come after the last slot",)
    assert (1 - found.world.edge.arrival_cdf).sum() == pytest.approx(4 / 20)
    other = compiled(tmp_path, ROWS.replace("0.7,1", "0.7,0"))
    assert fingerprint(other.world) != fingerprint(found.world)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("time_s,device,model\n1,2,0\n", r"x:7: arrivals.file: r.csv has device 2, expected numbers below 2"),
        ("time_s,device,model\n1,0,1\n", r"r.csv has model 1, expected numbers below 1"),
        ("time_s,device,model\n1,0.5,0\n", r"r.csv:2: expected whole numbers of a device and of a model"),
        ("time_s,device,model\n-1,0,0\n", r"r.csv:2: time_s is '-1', expected a number of at least 0"),
        ("time_s,device,model\n", r"r.csv: holds no request"),
        ("time_s,model\n1,0\n", r"r.csv"),
        (
            "time_s,device,model\n" + "1,0,0\n" * 13,
            r"tasks_per_slot: got 12, but r.csv has 13 requests in a slot",
        ),
    ],
)
def test_what_is_wrong_with_a_record_is_said_in_one_line(tmp_path: Path, rows: str, message: str):
    with pytest.raises(UserError, match=message) as found:
        compiled(tmp_path, rows)
    assert "\n" not in str(found.value)


def test_a_record_needs_its_file_and_names_its_own_devices(tmp_path: Path):
    with pytest.raises(ScenarioError, match=r"arrivals.file: no file 'r.csv' beside the scenario"):
        compile_scenario(read(RECORDED, "x", tmp_path))
    apart = RECORDED.replace("tasks_per_slot: 12", "tasks_per_slot: 2\ndistinct_devices: true")
    with pytest.raises(ScenarioError, match="distinct_devices: got true; recorded requests have their devices"):
        compiled(tmp_path, ROWS, apart)


def test_the_device_may_be_left_to_refused_tasks():
    free, left = (compile_scenario(read(SMALL + more, "x")).world for more in ("", "local: refused\n"))
    sends = free.option_upload_bits > 0
    assert free.option_mask.all()
    assert (left.option_mask == sends).all()
    assert (left.local_option == free.local_option).all()

"""The demonstration of a site: it shows its steps, loses nothing, and leaves no process behind."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.patience import wait_until

WAIT_S = 900.0


@pytest.mark.slow
def test_it_ends_by_itself_with_all_its_steps(tmp_path: Path):
    command = [sys.executable, "-m", "coinfer", "demo", "site", "--seconds", "5"]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "COLUMNS": "200", "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = ("page: http://", "3 edge servers", "policy pushed: version 1", "all servers decide by version 1",
             "edge-3 was killed", "version 1 rolled back to version 0", "sequential greedy again")  # fmt: skip
    places = [done.stdout.find(step) for step in steps]
    assert -1 not in places, done.stdout
    assert places == sorted(places)
    found = re.search(r"(\d+) requests answered in \d+ ms on average, (\d+) lost", done.stdout)
    assert found
    assert int(found[1]) > 0
    assert found[2] == "0"
    assert [*tmp_path.glob("coinfer-site-*")] == []


def test_its_processes_end_with_it(tmp_path: Path):
    command = [sys.executable, "-m", "coinfer", "demo", "site", "--seconds", "600"]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "COLUMNS": "200"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as running:
        assert running.stdout is not None
        page = re.search(r"http://(\S+?)/", running.stdout.readline())
        running.terminate()
        assert running.wait(WAIT_S) == 128 + 15
    assert page
    host, _, port = page[1].rpartition(":")
    wait_until(lambda: not _listens(host, int(port)), WAIT_S, "the controller has ended")


def _listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0

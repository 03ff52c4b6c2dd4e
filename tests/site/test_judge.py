"""The process that judges a candidate."""

import os
import subprocess
import sys

from tests.patience import wait_until

PARENT = """
import os, subprocess, sys
command = [sys.executable, "-m", "coinfer.site.trainer.judge", str(os.getpid())]
judge = subprocess.Popen(command, stdin=int(sys.argv[1]))
print(judge.pid, flush=True)
judge.wait()
"""


def test_a_judge_ends_with_the_controller_that_began_it():
    job, held_open = os.pipe()
    command = [sys.executable, "-c", PARENT, str(job)]
    with subprocess.Popen(command, pass_fds=(job,), stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        judge = int(parent.stdout.readline())
        wait_until(lambda: _threads(judge) > 1, 60, "a judge that watches its parent and waits for its job")
        parent.kill()
    wait_until(lambda: not _command(judge), 60, "the judge's end")
    os.close(held_open)
    os.close(job)


def _command(process: int) -> str:
    """Return the command of a process, empty if it has ended."""
    try:
        with open(f"/proc/{process}/cmdline") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _threads(process: int) -> int:
    return len(os.listdir(f"/proc/{process}/task"))

"""The process that judges a candidate."""

import os
import subprocess
import sys
import time

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
        parent.kill()
    while _command(judge):
        time.sleep(0.1)
    os.close(held_open)
    os.close(job)


def _command(process: int) -> str:
    """Return the command of a process, empty if it has ended."""
    try:
        with open(f"/proc/{process}/cmdline") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""

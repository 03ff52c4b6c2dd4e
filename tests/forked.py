"""Programs in processes of their own that need not load everything anew: each is forked from one that has."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

LOADED = ("coinfer.cli.main", "onnx", "onnxruntime", "onnxscript", "torch.onnx")
"""Modules that take long to load; not gRPC, whose log is set up when it is loaded."""
TIMEOUT_S = 280.0
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(list(LOADED))


def run_command(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """Runs `coinfer ARGUMENTS` in that folder, without standard input, and returns what it said and its status."""
    return _run(_be_command, ["coinfer", *arguments], folder, environment)


def run_python(path: Path, arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The same of a Python file."""
    return _run(_be_script, [str(path), *arguments], folder, os.environ)


def _run(
    program: Callable[[], object], words: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as said:
        out, err = Path(said, "out"), Path(said, "err")
        process = _FORKS.Process(target=_become, args=(program, list(words), folder, dict(environment), out, err))
        process.start()
        process.join(TIMEOUT_S)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(words, TIMEOUT_S)
        return subprocess.CompletedProcess(words, process.exitcode, out.read_text(), err.read_text())


def _become(
    program: Callable[[], object], words: list[str], folder: Path, environment: dict[str, str], out: Path, err: Path
) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), number)
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = words
    program()


def _be_command() -> None:
    from coinfer.__main__ import main

    main()


def _be_script() -> None:
    runpy.run_path(sys.argv[0], run_name="__main__")

"""What commands share: the console that they print on, and what they check and say before long work.

The console is as wide as the terminal, or 120 columns into a pipe, so that tables keep their words.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import ENOTDIR
from pathlib import Path

from rich.console import Console

from coinfer.errors import UserError
from coinfer.files import check_writable

console = Console(emoji=False, highlight=False, width=None if sys.stdout and sys.stdout.isatty() else 120)


@contextmanager
def interrupted_quietly() -> Iterator[None]:
    """Let an interrupt end the process at once and without a word, while libraries load.

    Some of them make an error of their own of it.
    """
    before = signal.getsignal(signal.SIGINT)
    is_usual = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    try:
        if is_usual:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        yield
    finally:
        if is_usual:
            signal.signal(signal.SIGINT, before)


def drain_at_eof() -> None:
    """Send this process SIGTERM when its standard input ends: whoever holds the other end of the pipe is gone."""

    def wait() -> None:
        while sys.stdin.buffer.read(4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    if sys.stdin is not None:
        threading.Thread(target=wait, name="coinfer-eof", daemon=True).start()


@contextmanager
def resumable(has_checkpoint: Callable[[], bool]) -> Iterator[None]:
    """Yield; if a person interrupts the work inside, print how to resume it.

    Args:
        has_checkpoint: tells whether there is something to resume from.
    """
    try:
        yield
    except KeyboardInterrupt:
        if has_checkpoint():
            console.print("stopped; the same command with --resume goes on from the last checkpoint")
        else:
            console.print("stopped before the first checkpoint; the same command begins anew")
        raise


def check_resume(folder: Path, resume: bool, has_checkpoint: bool) -> None:
    """Check that a training which is to be resumed has a checkpoint.

    Args:
        folder: of the training, for the error.
        resume: whether --resume was given.
        has_checkpoint: whether the folder holds one.

    Raises:
        UserError: if there is nothing to resume from.
    """
    if resume and not has_checkpoint:
        raise UserError(f"{folder}: no checkpoint to resume from; leave out --resume to begin a training there")


def check_out(folder: Path) -> None:
    """Find out before a training whether its folder can be made and written; nothing stays of the attempt.

    Args:
        folder: of the option --out; need not exist.

    Raises:
        UserError: if it cannot.
    """
    there = folder
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not there.is_dir():
            raise NotADirectoryError(ENOTDIR, os.strerror(ENOTDIR))
        check_writable(there / "coinfer")
    except OSError as error:
        raise UserError(f"--out {folder}: cannot write in {there} ({error.strerror}); name another folder") from None


def setup_pytorch(what: str, device: str, threads: int) -> None:
    """Set PyTorch's threads, after a check that it is installed and can compute on the device.

    Args:
        what: the work that needs it; begins the message.
        device: PyTorch's name of the device, such as `cuda`.
        threads: of PyTorch on the processor.

    Raises:
        UserError: if PyTorch is missing, or cannot compute on the device.
    """
    try:
        import torch
    except ModuleNotFoundError:
        raise UserError(f"{what} needs PyTorch: pip install '.[train]' in coinfer's folder") from None
    torch.set_num_threads(threads)
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError):  # each kind of device has an error of its own
        has = "cuda" if torch.cuda.is_available() else "no CUDA device"
        raise UserError(
            f"--device {device!r}: PyTorch cannot compute there; use cpu (this machine has {has})"
        ) from None

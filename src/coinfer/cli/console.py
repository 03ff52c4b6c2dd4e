"""What commands share: where they print (as wide as the terminal, or 120 columns into a pipe, so that tables keep their
words), and what they say before long work."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from coinfer.errors import UserError

console = Console(emoji=False, highlight=False, width=None if sys.stdout.isatty() else 120)


@contextmanager
def resumable() -> Iterator[None]:
    """Says how to go on with what is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("stopped; the same command with --resume goes on from the last checkpoint")
        raise


def setup_pytorch(what: str, device: str, threads: int) -> None:
    """Sets PyTorch's threads, where it is there and can compute on the device.

    Args:
        what: needs it; begins the message.

    Raises:
        UserError: where it is not, or cannot.
    """
    try:
        import torch
    except ModuleNotFoundError:
        raise UserError(f"{what} needs PyTorch: pip install 'coinfer[train]'") from None
    torch.set_num_threads(threads)
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError):  # each kind of device has an error of its own
        has = "cuda" if torch.cuda.is_available() else "no CUDA device"
        raise UserError(
            f"--device {device!r}: PyTorch cannot compute there; use cpu (this machine has {has})"
        ) from None

"""Atomic writes: a file is either complete or as it was before."""

import os
from contextlib import suppress
from errno import EISDIR, ENOENT
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write a file so that a full disk or a killed process leaves the old file as it was.

    Args:
        path: its folder must exist. A pipe or a terminal is written to directly.
        content: text becomes UTF-8.

    Raises:
        OSError: if the file cannot be written; it names the file.
    """
    path, data = Path(path), content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file():  # a pipe or a terminal, which nothing can be put in place of
        path.write_bytes(data)
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:  # also Ctrl-C
        with suppress(OSError):
            part.unlink()
        if not isinstance(error, OSError):
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from None


def check_writable(path: str | Path) -> None:
    """Find out before long work whether a file can be written; nothing stays of the attempt.

    Args:
        path: to be written by `write_atomic` later.

    Raises:
        OSError: if it cannot be written; it names the file.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR), str(path))
    if path.exists() and not path.is_file():
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.open("wb").close()
        part.unlink()
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None


def cache_folder(kind: str) -> Path:
    """Return the user's folder for what may be made anew, in `XDG_CACHE_HOME` or `~/.cache`; it need not exist.

    Args:
        kind: of what is kept there; a folder of its own.

    Raises:
        FileNotFoundError: if the user has no home, as in some containers.
    """
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise FileNotFoundError(ENOENT, "this user has no home directory; set XDG_CACHE_HOME", "~/.cache") from None
    return home / "coinfer" / kind


def write_figure(path: Path, figure: "Figure") -> None:
    """Write a figure so that a full disk or a killed process leaves the old picture as it was.

    Args:
        path: its folder must exist; its ending names the format.
        figure: drawn with 120 dots per inch.

    Raises:
        OSError: if the file cannot be written; it names the file.
    """
    picture = BytesIO()
    figure.savefig(picture, dpi=120, format=path.suffix.removeprefix("."))
    write_atomic(path, picture.getvalue())

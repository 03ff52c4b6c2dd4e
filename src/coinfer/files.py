"""Atomic writes: a file is either complete or as it was before."""

import os
from contextlib import suppress
from pathlib import Path


def write_atomic(path: str | Path, text: str) -> None:
    """Write a text file so that a full disk or a killed process leaves the old file as it was.

    Args:
        path: its folder must exist. A pipe or a terminal is written to directly.
        text: becomes UTF-8.

    Raises:
        OSError: if the file cannot be written; it names the file.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a pipe or a terminal, which nothing can be put in place of
        path.write_text(text, encoding="utf-8")
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise type(error)(error.errno, error.strerror, str(path)) from None

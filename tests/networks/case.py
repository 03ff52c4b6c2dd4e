"""A network of the suite: where its file comes from and what its inputs may be."""

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime as ort

Shape = tuple[int, ...]
DTYPES = {
    "float": np.float32,
    "double": np.float64,
    "float16": np.float16,
    **{
        kind: np.dtype(kind).type for kind in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
    },
    "bool": np.bool_,
}


class NotFetchedError(Exception):
    """A file that is not at hand and cannot be fetched now."""


class Case(NamedTuple):
    """One network."""

    name: str
    group: str
    """Heading in the table."""
    source: str
    """Where the file comes from, in the table."""
    file: str
    """Below the folder of files, or an absolute path."""
    write: Callable[[Path], object]
    """Writes the file, when it is missing."""
    shapes: Mapping[str, Shape] = {}
    """Sizes of inputs whose axes are free in the file."""
    values: Mapping[str, tuple[int, int]] = {}
    """Smallest and largest value of integer inputs; 0 and 1 where nothing is said."""
    needs_samples: bool = False
    """Whether it takes neither noise nor zeros nor ones, so that measuring it needs samples."""
    is_small: bool = False
    """Whether many of its kind share a process, in which the edge server is a thread."""
    refusal: str = ""
    """Words of the refusal, for a file that coinfer refuses on purpose."""


def written(case: Case, folder: Path) -> Path:
    """Return the file of a network, which is written if it is missing.

    Args:
        case: the network.
        folder: of files.

    Raises:
        NotFetchedError: if it would have to be fetched and cannot.
    """
    path = folder / case.file
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        case.write(path)
    return path


def samples(session: ort.InferenceSession, case: Case) -> dict[str, np.ndarray]:
    """Return inputs for a network: normal noise, and integers that the case allows.

    Args:
        session: of the original file.
        case: says sizes and values.
    """
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    feeds = {}
    for value in session.get_inputs():
        shape = case.shapes.get(value.name, tuple(size if isinstance(size, int) else 1 for size in value.shape))
        dtype = np.dtype(DTYPES[value.type.removeprefix("tensor(").removesuffix(")")])
        if dtype.kind == "f":
            feeds[value.name] = rng.standard_normal(shape).astype(dtype)
        else:
            low, high = case.values.get(value.name, (0, 1))
            feeds[value.name] = rng.integers(low, high, shape, endpoint=True).astype(dtype)
    return feeds

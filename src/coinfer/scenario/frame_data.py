"""Recorded frames of wireless-powered devices with their best modes, in the form of DROO's authors.

A file of F frames and N devices is a MATLAB file (`.mat`, version 5) with the arrays

    input_h       [F, N]  channel gains
    output_mode   [F, N]  best modes, 1 sends and 0 computes
    output_obj    [F, 1]  weighted sum of rates of these modes, bits per second

and may hold more, which is not read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from coinfer.errors import ScenarioError
from coinfer.scenario.load import Source
from coinfer.scenario.traces import find_file
from coinfer.scenario.world import FrameData

KEY = ("data",)
ARRAYS = ("input_h", "output_mode", "output_obj")
SUFFIX = ".mat"
MIN_FRAMES = 10
"""Fewer cannot be split into frames to train in and frames to judge in."""


def load_frames(name: str, devices: int, source: Source) -> FrameData:
    """Return the frames of a file.

    Args:
        name: of the file, looked for as `traces.find_file` does.
        devices: N of the scenario.
        source: of the scenario, for errors.

    Raises:
        ScenarioError: if the file cannot be read, an array is missing or holds what it cannot, or N is another; one
            line.
    """
    path = find_file(name, source.folder)
    if path is None:
        raise source.error(KEY, f"no file {name}")
    arrays = _read(path, source)
    missing = [key for key in ARRAYS if key not in arrays]
    if missing:
        raise source.error(KEY, f"{path}: has no array {missing[0]}; expected {', '.join(ARRAYS)}")
    gain, modes, rate_bps = (np.asarray(arrays[key]) for key in ARRAYS)
    if gain.ndim != 2 or modes.shape != gain.shape or rate_bps.shape not in {(len(gain), 1), (1, len(gain))}:
        shapes = ", ".join(f"{key} {np.shape(arrays[key])}" for key in ARRAYS)
        raise source.error(KEY, f"{path}: {shapes}; expected frames x devices, the same, and frames x 1")
    for key, good, expected in (
        ("input_h", _all(gain, lambda part: part >= 0), "numbers of at least 0"),
        ("output_mode", _all(modes, lambda part: (part == 0) | (part == 1)), "0 or 1"),
        ("output_obj", _all(rate_bps, lambda part: part > 0), "numbers above 0"),
    ):
        if not good:
            raise source.error(KEY, f"{path}: {key} holds something else than {expected}")
    if len(gain) < MIN_FRAMES:
        raise source.error(KEY, f"{path}: {len(gain)} frames, expected at least {MIN_FRAMES}")
    if gain.shape[1] != devices:
        count = gain.shape[1]
        raise source.error(KEY, f"{path}: frames of {count} devices, the scenario has {devices}; set devices={count}")
    return FrameData(gain.astype(float), modes.astype(bool), rate_bps.astype(float).reshape(-1))


def _read(path: Path, source: Source) -> Mapping[str, Any]:
    if path.suffix != SUFFIX:
        raise source.error(KEY, f"{path}: expected a MATLAB file, which ends in {SUFFIX}")
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError:
        raise ScenarioError(f"{path}: reading it needs SciPy: pip install '.[train]' in coinfer's folder") from None
    try:
        return loadmat(path)
    except OSError as error:
        raise source.error(KEY, f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # SciPy raises several kinds for a damaged file
        raise source.error(KEY, f"{path}: not a MATLAB file of version 5: {str(error).splitlines()[0]}") from None


def _all(array: np.ndarray, good: Any) -> bool:
    is_number = np.issubdtype(array.dtype, np.number) and not np.iscomplexobj(array)
    return bool(is_number and np.isfinite(array).all() and good(array).all())

"""Inputs that are no pictures, from files and texts: arrays, lists of numbers such as tokens, and audio."""

import wave
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from coinfer.errors import short_repr
from coinfer.graph.ir import ModelGraph, Tensor
from coinfer.runtime.device.inputs import ItemError

SUFFIXES = (".npy", ".npz", ".txt", ".wav")
"""Files that hold inputs other than pictures."""


def read_inputs(graph: ModelGraph, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the inputs that a person names, each in the type and shape of its tensor.

    Args:
        graph: the network.
        texts: `name=FILE` (.npy, .txt with numbers, .wav), `name=1,2,3`, `name=0` (one number fills the input), or
            `FILE.npz` with arrays by input name.

    Raises:
        ItemError: if a name is unknown or given twice, or a value does not fit its input.
    """
    values: dict[str, np.ndarray] = {}
    for text in texts:
        name, equals, source = text.partition("=")
        if equals and name in graph.inputs:
            found = {name: read_values(source, graph.tensors[name])}
        elif text.endswith(".npz"):
            found = read_archive(graph, Path(text))
        else:
            known = ", ".join(graph.inputs)
            raise ItemError(f"--input {text!r}: expected NAME=VALUE or a file .npz; {graph.name} has {known}")
        if twice := values.keys() & found.keys():
            raise ItemError(f"--input: {sorted(twice)[0]!r} is given twice")
        values |= found
    return values


def read_item_file(graph: ModelGraph, path: Path, others: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return all inputs of one request: those of a file, and others that are given.

    Args:
        graph: the network.
        path: a file of `SUFFIXES`; one that is no .npz holds the one input that is not among the others.
        others: inputs by name.

    Raises:
        ItemError: if the file does not fit the network.
    """
    if path.suffix.lower() == ".npz":
        found = read_archive(graph, path)
    else:
        missing = [name for name in graph.inputs if name not in others]
        if len(missing) != 1:
            raise ItemError(f"{path}: it is not clear which of {missing} this is; give --input NAME={path}")
        found = {missing[0]: read_values(str(path), graph.tensors[missing[0]])}
    return {**others, **found}


def read_archive(graph: ModelGraph, path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file, which has the names of inputs.

    Args:
        graph: the network.
        path: of the file.

    Raises:
        ItemError: if it cannot be read, or an array has another name or does not fit.
    """
    arrays = _load(path)
    if not isinstance(arrays, Mapping):
        raise ItemError(f"{path}: holds one array; expected an .npz file with the names {list(graph.inputs)}")
    if unknown := [name for name in arrays if name not in graph.inputs]:
        raise ItemError(f"{path}: {unknown[0]!r} is no input; {graph.name} has {', '.join(graph.inputs)}")
    return {name: fit(array, graph.tensors[name], str(path)) for name, array in arrays.items()}


def read_values(source: str, tensor: Tensor) -> np.ndarray:
    """Return the values of one input.

    Args:
        source: a file, or numbers separated by commas; one number fills the input.
        tensor: the input.

    Raises:
        ItemError: if there is no such file, it cannot be read, or the values do not fit.
    """
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix == ".wav":
        return fit(read_wav(path), tensor, source)
    if suffix == ".npy":
        array = _load(path)
        if isinstance(array, Mapping):
            raise ItemError(f"{path}: holds several arrays; give it by itself, with the names of inputs")
        return fit(array, tensor, source)
    if suffix == ".txt":
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ItemError(f"{path}: cannot be read as text ({type(error).__name__})") from None
        return fit(_numbers(text, source), tensor, source)
    values = _numbers(source, source)
    return fit(np.full(tensor.shape, values[0]) if values.size == 1 else values, tensor, source)


def _numbers(text: str, source: str) -> np.ndarray:
    parts = text.replace(",", " ").split()
    try:
        if not parts:
            raise ValueError
        return np.array([int(part) if part.lstrip("+-").isdecimal() else float(part) for part in parts])
    except (ValueError, OverflowError):
        expected = f"numbers or a file that ends in {', '.join(SUFFIXES)}"
        raise ItemError(f"{short_repr(source)}: expected {expected}") from None


def _load(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    try:
        loaded = np.load(path, allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except FileNotFoundError:
        raise ItemError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ItemError(f"{path}: not a readable array file ({type(error).__name__}); expected .npy or .npz") from None


def read_wav(path: Path) -> np.ndarray:
    """Return the samples of a sound, float32 from -1 to 1, the mean of its channels.

    Args:
        path: of a PCM file; it is not resampled, so its rate must be the one that the network expects.

    Raises:
        ItemError: if it cannot be read.
    """
    try:
        with wave.open(str(path), "rb") as sound:
            width, channels = sound.getsampwidth(), sound.getnchannels()
            raw = np.frombuffer(sound.readframes(sound.getnframes()), np.uint8)
    except FileNotFoundError:
        raise ItemError(f"{path}: no such file") from None
    except (OSError, EOFError, wave.Error) as error:
        raise ItemError(f"{path}: not a readable PCM sound ({short_repr(str(error))})") from None
    frames = raw[: raw.size // (width * channels) * width * channels].reshape(-1, width)
    if width == 1:
        samples = (frames[:, 0].astype(np.float64) - 128) / 128
    else:
        wide = np.zeros((len(frames), 4), np.uint8)
        wide[:, 4 - width :] = frames
        samples = wide.view("<i4")[:, 0] / 2.0**31
    return samples.reshape(-1, channels).mean(axis=1).astype(np.float32)


def fit(array: np.ndarray, tensor: Tensor, source: str) -> np.ndarray:
    """Return an array in the type and with the axes of an input; nothing is lost but digits of fractions.

    Args:
        array: of the same axes, without the first ones if these are 1, or flat.
        tensor: the input.
        source: where the array came from, for the error.

    Raises:
        ItemError: if its values or its size do not fit.
    """
    expected = f"input {tensor.name!r} is {tensor.dtype} {list(tensor.shape)}"
    if array.dtype.kind not in "biuf":
        raise ItemError(f"{source}: holds {array.dtype}; {expected}")
    with np.errstate(invalid="ignore", over="ignore"):
        cast = array.astype(tensor.dtype)
        fraction = array.dtype.kind == tensor.dtype.kind == "f"
        kept = np.isfinite(cast) | ~np.isfinite(array) if fraction else cast == array
    if not np.all(kept):
        first = array[~np.broadcast_to(kept, array.shape)].flat[0]
        raise ItemError(f"{source}: value {first} is none of {tensor.dtype}; {expected}")
    if cast.ndim < len(tensor.shape):
        missing = len(tensor.shape) - cast.ndim
        if all(size == 1 for size in tensor.shape[:missing]):
            cast = cast.reshape((1,) * missing + cast.shape)
    if cast.shape != tensor.shape and cast.size == tensor.elements and not any(tensor.axes):
        cast = cast.reshape(tensor.shape)
    if cast.ndim != len(tensor.shape):
        raise ItemError(f"{source}: has shape {list(array.shape)}; {expected}")
    return np.asarray(cast, order="C")

"""Measuring a network together with the codec that will carry its tensors, and remembering the result."""

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from coinfer.graph.ir import ImageInput, ModelGraph
from coinfer.profile.measure import Engine, Sample, cut_tensors, measure, random_samples, this_machine
from coinfer.profile.payloads import Codec
from coinfer.profile.table import ProfileError, ProfileTable
from coinfer.progress import Progress, quiet
from coinfer.runtime.codec import codec
from coinfer.runtime.images import load_images, normalise, to_pixels
from coinfer.units import WIRE_BITS, bits_of_bytes

SLOW_LINK_BPS = 10e6
"""Payloads are measured as they are sent at this rate, where the lossless stage pays."""
PICTURE_RUNS = 3
PICTURES = 4
"""Sample pictures for the sizes of payloads."""


def profile_for(
    graph: ModelGraph,
    source: ProfileTable | str | Path | None = None,
    threads: int = 1,
    progress: Progress = quiet,
) -> ProfileTable:
    """Return the table `source` or that of a file; without one, that of this machine: remembered, or measured now.

    Measured tables are kept in `~/.cache/coinfer` (`XDG_CACHE_HOME`), by network, machine and threads.

    Raises:
        ProfileError: if the file is no table, or the table belongs to another network.
    """
    if source is not None:
        table = source if isinstance(source, ProfileTable) else ProfileTable.load(source)
        table.check(graph)
        return table
    path = _cache_path(graph, threads)
    with suppress(ProfileError):
        table = ProfileTable.load(path)
        table.check(graph)
        sent = set(cut_tensors(graph))
        timed = sent - set(() if graph.image else graph.inputs)
        if table.payload_bits.keys() >= sent and table.encode_s.keys() >= timed:
            return table
    table = measure_with_codec(graph, threads, samples_for(graph), progress)
    with suppress(OSError):  # a read-only home only costs the next start
        path.parent.mkdir(parents=True, exist_ok=True)
        table.save(path)
    return table


def measure_with_codec(
    graph: ModelGraph, threads: int, samples: Sequence[Sample], progress: Progress = quiet
) -> ProfileTable:
    """Measures operations and payloads of every width. With one thread its processor time counts, so that other work on
    the machine does not."""
    codecs = {bits: Codec(partial(_encode, bits), codec.decode) for bits in WIRE_BITS}
    image = graph.image
    input_codecs = codecs if image is None else {8: Codec(lambda x: _encode_picture(x, image, None), codec.decode)}
    engine = Engine(threads, clock=time.thread_time if threads == 1 else time.perf_counter)
    table = measure(graph, samples, codecs, input_codecs=input_codecs, engine=engine, progress=progress)
    return table if image is None else _with_picture_times(graph, image, table, samples, engine)


def samples_for(
    graph: ModelGraph, pictures: Sequence[tuple[str, np.ndarray]] | None = None
) -> list[Mapping[str, np.ndarray]]:
    """Inputs to measure on: pictures (the shipped ones unless given) where the network takes them, else noise."""
    image = graph.image
    if image is None or len(graph.inputs) != 1:
        return random_samples(graph)
    found = [picture for _, picture in (pictures or load_images())][:PICTURES]
    return [{graph.inputs[0]: normalise(to_pixels(picture, image), image.mean, image.std)} for picture in found]


def with_jpeg(graph: ModelGraph, table: ProfileTable, quality: int) -> ProfileTable:
    """The table with the input's size as a JPEG of this quality, the mean of the shipped photographs."""
    image = graph.image
    if image is None:
        raise ProfileError(f"{graph.name} takes no pictures, so none can be sent as JPEG")
    sizes = [len(_encode_picture(sample[graph.inputs[0]], image, quality)) for sample in samples_for(graph)]
    payload_bits = {**table.payload_bits, graph.inputs[0]: {8: bits_of_bytes(float(np.mean(sizes)))}}
    return table.model_copy(update={"payload_bits": payload_bits})


def _with_picture_times(
    graph: ModelGraph, image: ImageInput, table: ProfileTable, samples: Sequence[Sample], engine: Engine
) -> ProfileTable:
    """The table with the times that a picture's own bytes take to encode and to decode: medians over runs in turns."""
    spent_s = []
    for sample in [*samples, *samples] * PICTURE_RUNS:
        pixels = _pixels_of(sample[graph.inputs[0]], image)
        began_s = engine.clock()
        payload = codec.encode_image(pixels, image, rate_bps=SLOW_LINK_BPS)
        encoded_s = engine.clock()
        codec.decode(payload)
        spent_s.append((encoded_s - began_s, engine.clock() - encoded_s))
    encode_s, decode_s = np.median(spent_s, axis=0).tolist()
    name = graph.inputs[0]
    times = {
        "encode_s": {**table.encode_s, name: {8: encode_s}},
        "decode_s": {**table.decode_s, name: {8: decode_s}},
    }
    return table.model_copy(update=times)


def _encode(bits: int, x: np.ndarray) -> bytes:
    return codec.encode(x, bits, rate_bps=SLOW_LINK_BPS)


def _encode_picture(x: np.ndarray, image: ImageInput, jpeg_quality: int | None) -> bytes:
    """Encodes the picture that a normalised input was made from."""
    return codec.encode_image(_pixels_of(x, image), image, jpeg_quality, rate_bps=SLOW_LINK_BPS)


def _pixels_of(x: np.ndarray, image: ImageInput) -> np.ndarray:
    """The picture that a normalised input was made from."""
    channels_last = np.moveaxis(x[0], 0, -1)
    return np.rint((channels_last * np.array(image.std) + np.array(image.mean)) * 255).astype(np.uint8)


def _cache_path(graph: ModelGraph, threads: int) -> Path:
    stamp = this_machine().model_copy(update={"date": ""}).model_dump_json()
    machine = hashlib.sha256(stamp.encode()).hexdigest()[:12]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "coinfer" / "profiles" / f"{graph.fingerprint[:16]}-{machine}-{threads}.json"

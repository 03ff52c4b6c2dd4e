"""Measures a network together with the codec that carries its tensors, and caches the result."""

import hashlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from coinfer.files import cache_folder
from coinfer.graph.image_input import ImageInput
from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx.axes import Shapes
from coinfer.graph.open_model import open_model
from coinfer.graph.pictures import NO_SETTINGS, PictureSettings
from coinfer.graph.segment import segment
from coinfer.graph.session import Session, open_session
from coinfer.options.compile import DEFAULT_BITS, compile_options
from coinfer.options.prune import SPEED_RATIOS, prune
from coinfer.options.table import Names
from coinfer.profile.exactness import cut_differences
from coinfer.profile.measure import Engine, cut_tensors, measure, this_machine
from coinfer.profile.payloads import Codec
from coinfer.profile.samples import Sample, read_samples, workable_samples
from coinfer.profile.sizing import measure_sizes
from coinfer.profile.table import CutCheck, ProfileError, ProfileTable, too_large
from coinfer.progress import Progress, quiet
from coinfer.runtime.code_profile import measure_codes
from coinfer.runtime.codec import codec
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import load_images, pixels_of, preprocess
from coinfer.runtime.providers import CPU
from coinfer.units import FLOAT32_BITS, WIRE_BITS, bits_of_bytes

SLOW_LINK_BPS = 10e6
"""Payloads are measured as they are sent at this rate, at which lossless coding pays."""
PICTURE_RUNS, PROVIDER_RUNS = 3, 10
_log = logging.getLogger(__name__)
PICTURES = 4
"""Sample pictures for the sizes of payloads."""


def profile_for(
    graph: ModelGraph,
    source: ProfileTable | str | Path | None = None,
    threads: int = 1,
    progress: Progress = quiet,
    *,
    samples: Path | None = None,
    known: Sequence[Sample] = (),
    provider: str | None = CPU,
) -> ProfileTable:
    """Return the measured times of a network: the given table, the one cached for this machine, or one measured now.

    The cache is in `~/.cache/coinfer` (`XDG_CACHE_HOME`), by network, machine and threads.

    Args:
        graph: the network that the table must belong to.
        source: a table or its file; None takes the cache or measures.
        threads: threads within an operation, for a table of this machine.
        progress: called while it measures.
        samples: file of inputs to measure on; the network is then measured anew.
        known: inputs that the network may take, for one that takes neither noise nor zeros nor ones.
        provider: short name of what is to compute here; None takes a given table of any.

    Raises:
        ProfileError: if the file is no table, or the table belongs to another network or another provider.
    """
    if source is not None:
        table = source if isinstance(source, ProfileTable) else ProfileTable.load(source)
        table.check(graph)
        if provider is not None:
            table.check_provider(provider)
            others = table.machine.differences(this_machine(), table.threads, threads)
            if others and table is not source:
                _log.warning("%s was measured with %s; plans may err until requests correct them", source, others)
        return table
    provider = provider or CPU
    path = _cache_path(graph, threads, provider)
    cached = _cached(graph, path) if samples is None else None
    if cached is not None and _knows_codes(graph, cached):
        return cached
    arrays = samples_for(graph, known=known) if samples is None else read_samples(graph, samples)
    table = cached or measure_with_codec(graph, threads, arrays, progress, provider)
    table = with_codes(graph, table, arrays, progress)
    with suppress(OSError):  # a read-only disk only costs the next start
        path.parent.mkdir(parents=True, exist_ok=True)
        table.save(path)
    return table


def _cached(graph: ModelGraph, path: Path) -> ProfileTable | None:
    """Return the table in the cache, if it is of this network and has all that is needed."""
    try:
        table = ProfileTable.load(path)
        table.check(graph)
    except ProfileError:
        return None
    sent_tensors = {name for name in cut_tensors(graph) if not too_large(graph, [name])}
    is_whole = table.payload_bits.keys() >= sent_tensors and table.encode_s.keys() >= sent_tensors
    return table if is_whole and table.sizes.keys() >= {axis.name for axis in graph.axes} else None


def _knows_codes(graph: ModelGraph, table: ProfileTable) -> bool:
    return graph.bottleneck is None or (table.bottleneck is not None and table.bottleneck.fits(graph))


def with_codes(
    graph: ModelGraph, table: ProfileTable, samples: Sequence[Sample], progress: Progress = quiet
) -> ProfileTable:
    """Return the table with what the codes of the network's bottleneck cost here; as it is if it knows them.

    Args:
        graph: the network of the table.
        table: measured on this machine.
        samples: inputs to measure on.
        progress: called while it measures.
    """
    if _knows_codes(graph, table):
        return table
    clock = time.thread_time if table.threads == 1 else time.perf_counter
    given = {"threads": table.threads, "provider": table.provider}
    return table.model_copy(update={"bottleneck": measure_codes(graph, samples, clock, progress=progress, **given)})


def shapes_of(source: ProfileTable | str | Path | None) -> dict[str, str]:
    """Return the sizes of free axes that a profile was measured with, as `open_model` takes them.

    Args:
        source: a table or its file; None has none.

    Raises:
        ProfileError: if the file is no table.
    """
    if source is None:
        return {}
    return (source if isinstance(source, ProfileTable) else ProfileTable.load(source)).shapes


def open_profiled(
    model: str | Path,
    shapes: Shapes,
    source: ProfileTable | str | Path | None,
    pictures: PictureSettings = NO_SETTINGS,
    limits: Mapping[str, int | str] = MappingProxyType({}),
) -> ModelGraph:
    """Open a network as `open_model` does; without sizes at those that its profile remembers.

    Args:
        model: name or path.
        shapes: sizes of free axes.
        source: its profile, if there is one.
        pictures: how it takes pictures.
        limits: other values for limits of what a file may take.

    Raises:
        GraphError: if it cannot be opened.
        ProfileError: if the profile is none, or its sizes do not fit the network.
    """
    remembered = {} if shapes else shapes_of(source)
    try:
        return open_model(model, shapes or remembered, pictures, limits)
    except GraphError as error:
        if not remembered:
            raise
        where = source.model if isinstance(source, ProfileTable) else source
        raise ProfileError(f"{error}; these sizes are those of the profile {where}: is it of this network?") from None


def measure_with_codec(
    graph: ModelGraph, threads: int, samples: Sequence[Sample], progress: Progress = quiet, provider: str = CPU
) -> ProfileTable:
    """Measure the operations of a network, and the payloads of its tensors with every number of bits.

    With one thread the processor time counts, so that other load on the machine does not.

    Args:
        graph: the network.
        threads: threads within an operation.
        samples: inputs by name, one mapping for each sample; see `samples_for`.
        progress: called while it measures.
        provider: short name of what is to compute.

    Returns:
        The measured table; it is not cached.
    """
    codecs = {bits: Codec(partial(_encode, bits), codec.decode) for bits in WIRE_BITS}
    image = graph.image
    input_codecs = codecs if image is None else {8: Codec(lambda x: _encode_input(x, image), codec.decode)}
    engine = Engine(threads, clock=time.thread_time if threads == 1 else time.perf_counter)
    total = 0

    def first_steps(done: int, steps: int, what: str) -> None:
        nonlocal total
        total = steps
        progress(done, steps + 2, what if done < steps else "running other sizes")

    table = measure(graph, samples, codecs, input_codecs=input_codecs, engine=engine, progress=first_steps)
    table = table if image is None else _with_picture_times(graph, image, table, samples, engine)
    whole = open_session(graph, segment(graph, graph.inputs, graph.outputs), threads)
    table = table.model_copy(update={"sizes": measure_sizes(graph, samples[0], whole, engine.clock)})
    progress(total + 1, total + 2, "comparing answers with and without cuts")
    table = _with_cut_checks(graph, table, samples, engine)
    table = table if provider == CPU else _with_provider(graph, table, samples, provider)
    progress(total + 2, total + 2, "done")
    return table


def _with_provider(graph: ModelGraph, table: ProfileTable, samples: Sequence[Sample], provider: str) -> ProfileTable:
    """Return the table with the time of a provider for the whole network, shared among its operations as before.

    What a cut changes is not known then.
    """
    executor, outputs = Executor(graph, table.threads, provider=provider), graph.outputs
    executor.prepare(graph.inputs, outputs)
    runs_s = [executor.run(sample, outputs)[1] for sample in [*samples] * (1 + PROVIDER_RUNS)][len(samples) :]
    quarter_s, whole_s, three_quarters_s = np.quantile(runs_s, [0.25, 0.5, 0.75]).tolist()
    ratio = whole_s / table.whole_s
    ends = {name: {key: v * ratio for key, v in getattr(table, name).items()} for name in ("enter_s", "leave_s")}
    times: dict[str, object] = {
        "provider": provider,
        "whole_s": whole_s,
        "whole_spread_s": three_quarters_s - quarter_s,
        "call_s": table.call_s * ratio,
        "op_s": tuple(seconds * ratio for seconds in table.op_s),
        "op_spread_s": (),
        "cut_checks": (),
    }
    return table.model_copy(update=times | ends)


def _with_cut_checks(graph: ModelGraph, table: ProfileTable, samples: Sequence[Sample], engine: Engine) -> ProfileTable:
    """Return the table with what the cuts change that may be best at some link rate, load, and speed of a server."""
    checks = []
    for outputs in dict.fromkeys((graph.outputs, *((name,) for name in graph.outputs))):
        ends = (graph.inputs, graph.pruned(outputs).inputs)
        cuts = tuple(dict.fromkeys(cut for cut in _best_cuts(graph, table, outputs) if cut not in ends))

        def open_(first: Names, last: Names) -> Session:
            return open_session(graph, segment(graph, first, last), engine.threads, engine.providers)

        found = cut_differences(graph, samples, cuts, outputs, open_)
        checks += [CutCheck(cut=cut, outputs=outputs, difference=d) for cut, d in zip(cuts, found, strict=True)]
    return table.model_copy(update={"cut_checks": tuple(checks)})


def _best_cuts(graph: ModelGraph, table: ProfileTable, outputs: Names) -> list[Names]:
    """Return the cuts of the options that survive pruning, with few bits allowed and with 32 only."""
    found: list[Names] = []
    for bits in ((*DEFAULT_BITS, 8), (FLOAT32_BITS,)):
        options = compile_options(graph, table, bits, exits=(outputs,))
        kept = prune(options, "near-best", speed_ratios=SPEED_RATIOS)
        found += [cut for cut, is_local in zip(kept.cuts, kept.is_local.tolist(), strict=True) if not is_local]
    return found


def samples_for(
    graph: ModelGraph, pictures: Sequence[tuple[str, np.ndarray]] | None = None, known: Sequence[Sample] = ()
) -> list[Mapping[str, np.ndarray]]:
    """Return inputs to measure on, one mapping of names for each sample: pictures if the network takes them, else
    what it can take (`samples.workable_samples`).

    Args:
        graph: the network.
        pictures: name and uint8 [height, width, 3] of each, of which the first four are used; None takes the shipped
            ones.
        known: inputs that it may take.
    """
    image, name = graph.image, graph.picture_input
    (found,) = workable_samples(graph, known)
    if image is None or name is None:
        return [found]
    images = [picture for _, picture in (pictures or load_images())][:PICTURES]
    return [{**found, name: preprocess(picture, image)} for picture in images]


def with_jpeg(graph: ModelGraph, table: ProfileTable, quality: int) -> ProfileTable:
    """Return the table with the input's size as JPEG, the mean over the shipped photographs.

    Args:
        graph: the network of the table.
        table: stays as it is.
        quality: of the JPEG, 1 to 95.

    Raises:
        ProfileError: if the network takes no pictures.
    """
    image, name = graph.image, graph.picture_input
    if image is None or name is None:
        raise ProfileError(f"{graph.name} takes no pictures, so none can be sent as JPEG")
    sizes = [len(_encode_picture(sample[name], image, quality)) for sample in samples_for(graph)]
    payload_bits = {**table.payload_bits, name: {8: bits_of_bytes(float(np.mean(sizes)))}}
    return table.model_copy(update={"payload_bits": payload_bits})


def _with_picture_times(
    graph: ModelGraph, image: ImageInput, table: ProfileTable, samples: Sequence[Sample], engine: Engine
) -> ProfileTable:
    """Return the table with the times that a picture takes to encode and to decode, medians over interleaved runs."""
    name, runs_s = image.input or graph.inputs[0], []
    for sample in [*samples, *samples] * PICTURE_RUNS:
        pixels = pixels_of(sample[name], image)
        began_s = engine.clock()
        payload = codec.encode_image(pixels, image, rate_bps=SLOW_LINK_BPS)
        encoded_s = engine.clock()
        codec.decode(payload)
        runs_s.append((encoded_s - began_s, engine.clock() - encoded_s))
    encode_s, decode_s = np.median(runs_s, axis=0).tolist()
    times = {
        "encode_s": {**table.encode_s, name: {8: encode_s}},
        "decode_s": {**table.decode_s, name: {8: decode_s}},
    }
    return table.model_copy(update=times)


def _encode(bits: int, x: np.ndarray) -> bytes:
    return codec.encode(x, bits, rate_bps=SLOW_LINK_BPS)


def _encode_input(x: np.ndarray, image: ImageInput) -> bytes:
    """Return an input of a network that takes pictures: the picture as its bytes, any other as it is."""
    is_picture = x.shape == image.shape and x.dtype.name == image.dtype
    return _encode_picture(x, image, None) if is_picture else _encode(FLOAT32_BITS, x)


def _encode_picture(x: np.ndarray, image: ImageInput, jpeg_quality: int | None) -> bytes:
    """Return the encoded picture from which a normalised input was made."""
    return codec.encode_image(pixels_of(x, image), image, jpeg_quality, rate_bps=SLOW_LINK_BPS)


def _cache_path(graph: ModelGraph, threads: int, provider: str) -> Path:
    stamp = this_machine().model_copy(update={"date": ""}).model_dump_json() + repr(graph.image)
    machine = hashlib.sha256(stamp.encode()).hexdigest()[:12]
    return _cache_folder() / f"{graph.fingerprint[:16]}-{machine}-{threads}-{provider}.json"


def _cache_folder() -> Path:
    """Return the folder of cached profiles; for a user without a home, as in a container, one that keeps nothing."""
    try:
        return cache_folder("profiles")
    except FileNotFoundError:
        return Path(os.devnull)

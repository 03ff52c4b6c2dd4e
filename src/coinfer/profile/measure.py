"""Measure a network on this machine.

The whole network runs under ONNX Runtime's own profiler, and its time is shared among the operations as that profile
says. Timing operations one by one would err by tens of percent: alone they find their weights in the cache and are not
fused with their neighbours. The profiles of the blocks tell what a segment pays extra at its ends.
"""

import itertools
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import onnxruntime

from coinfer.graph.ir import ModelGraph
from coinfer.graph.segment import segment
from coinfer.graph.session import CPU, Session, open_session
from coinfer.profile.fields import Machine
from coinfer.profile.payloads import Codec, Payloads, measure_payloads
from coinfer.profile.samples import Sample, check_samples
from coinfer.profile.table import ProfileError, ProfileTable, too_large
from coinfer.profile.trace import Trace, open_traced, read_trace
from coinfer.progress import Progress, quiet

WARM_UP = 3
REPEATS = 25
BLOCK_RUNS = 12


class Engine(NamedTuple):
    """How segments are run and timed."""

    threads: int = 1
    providers: Sequence[str] = (CPU,)
    clock: Callable[[], float] = time.perf_counter
    """Returns seconds. If one thread computes on a busy machine, `time.thread_time` leaves out the other work."""


_ENGINE = Engine()


def measure(
    graph: ModelGraph,
    samples: Sequence[Sample],
    codecs: Mapping[int, Codec] | None = None,
    *,
    input_codecs: Mapping[int, Codec] | None = None,
    tensors: Sequence[str] | None = None,
    engine: Engine = _ENGINE,
    repeats: int = REPEATS,
    progress: Progress = quiet,
) -> ProfileTable:
    """Return the profile of a network on this machine; takes as long as some 70 runs of the whole network.

    Args:
        graph: the network.
        samples: inputs to run it on; sizes of payloads are means over them.
        codecs: by bits per element; without them the table holds no payloads.
        input_codecs: used instead for the network's inputs, as an image is sent as its own bytes.
        tensors: whose payloads to measure; those that may be sent (`cut_tensors`) if not given. Those that are
            too large for a message are left out.
        engine: threads, providers and clock.
        repeats: runs of the whole network, and as many under the profiler.
        progress: called before each block and each sample.

    Raises:
        ProfileError: if there is no sample, or one that does not fit the network's inputs.
    """
    check_samples(graph, samples)
    sent = [name for name in (cut_tensors(graph) if tensors is None else tensors) if not too_large(graph, [name])]
    steps, step = len(_blocks(graph)) + 1 + len(samples), itertools.count()

    def report(what: str) -> None:
        progress(next(step), steps, what)

    with _trace_folder() as folder:
        report(f"running {graph.name}")
        whole = _run_whole(graph, samples, Path(folder), engine, repeats)
        ends = _run_blocks(graph, samples[0], whole.trace, Path(folder), engine, report)
    activations = _activations(graph, samples, sent, engine, report)
    payloads = measure_payloads(graph, activations, codecs or {}, input_codecs or codecs or {}, engine.clock)
    report("done")
    return _table(graph, engine, whole, ends, payloads)


def _trace_folder() -> TemporaryDirectory[str]:
    """Return a new folder for ONNX Runtime's traces, which exists until its context ends."""
    try:
        return TemporaryDirectory(prefix="coinfer-")
    except OSError as error:
        raise ProfileError(
            f"measuring needs a folder for temporary files: {error.strerror}; set TMPDIR to one that can be written, "
            f"or give a profile that was measured elsewhere (--profile)"
        ) from error


def _table(graph: ModelGraph, engine: Engine, whole: "_Whole", ends: "_Ends", payloads: Payloads) -> ProfileTable:
    """Return the profile that these measurements make."""
    enter_s, leave_s = _complete(graph, ends, whole.trace)
    return ProfileTable(
        model=graph.name,
        fingerprint=graph.fingerprint,
        machine=this_machine(),
        threads=engine.threads,
        shapes=dict(graph.shapes),
        work_flop=graph.work_flop,
        whole_s=whole.median_s,
        whole_spread_s=whole.spread_s,
        call_s=whole.call_s,
        op_s=tuple(_op_s(graph, whole).tolist()),
        op_spread_s=tuple(split_by_work(graph, whole.trace.spread_s.tolist()).tolist()),
        enter_s=enter_s,
        leave_s=leave_s,
        payload_bits=payloads.bits,
        encode_s_per_byte=payloads.encode_s_per_byte,
        decode_s_per_byte=payloads.decode_s_per_byte,
        encode_s=payloads.encode_s,
        decode_s=payloads.decode_s,
    )


def cut_tensors(graph: ModelGraph) -> tuple[str, ...]:
    """Return the tensors that may be sent: those of the useful cuts of the network, and of each of its outputs alone.

    Args:
        graph: each of several outputs may be an exit.
    """
    names = (name for cuts in _chains(graph) for cut in cuts[:-1] for name in cut)
    return tuple(dict.fromkeys(names))


def _chains(graph: ModelGraph) -> list[list[tuple[str, ...]]]:
    """Return the useful cuts of the network, and of the network of each output if there are several."""
    alone = [graph.pruned((name,)) for name in graph.outputs] if len(graph.outputs) > 1 else []
    return [[cut.tensors for cut in one.useful_cuts()] for one in (graph, *alone)]


def _blocks(graph: ModelGraph) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return the pairs of neighbouring cuts, each once."""
    return list(dict.fromkeys(pair for cuts in _chains(graph) for pair in itertools.pairwise(cuts)))


def this_machine() -> Machine:
    """Return the stamp of this machine, now."""
    return Machine(
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        onnxruntime=onnxruntime.__version__,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name"))
    return next(names, platform.processor() or platform.machine())


class _Whole(NamedTuple):
    """Times of the undivided network."""

    median_s: float
    spread_s: float
    call_s: float
    """Cost of running any segment beside its operations."""
    trace: Trace


def _run_whole(graph: ModelGraph, samples: Sequence[Sample], folder: Path, engine: Engine, repeats: int) -> _Whole:
    """Time the undivided network without and with the profiler, and a segment that only passes its inputs on.

    The three take turns: all see the same machine, and caches that other work has used in between, as in service.
    """
    plain = open_session(graph, segment(graph, graph.inputs, graph.outputs), engine.threads, engine.providers)
    traced = open_traced(graph, graph.inputs, graph.outputs, folder, engine.threads, engine.providers)
    idle = open_session(graph, segment(graph, graph.outputs, graph.outputs), engine.threads, engine.providers)
    outputs = _values(graph, samples[0], graph.outputs, engine)
    plain_s, idle_s = np.empty((2, WARM_UP + repeats))
    for i in range(WARM_UP + repeats):
        feeds = samples[i % len(samples)]
        plain_s[i] = run_s(plain, feeds, engine.clock)
        run_s(traced, feeds, engine.clock)
        idle_s[i] = run_s(idle, {name: outputs[name] for name in graph.outputs}, engine.clock)
    low_s, median_s, high_s = np.quantile(plain_s[WARM_UP:], [0.25, 0.5, 0.75]).tolist()
    call_s = min(float(np.median(idle_s[WARM_UP:])), median_s / 2)
    return _Whole(median_s, high_s - low_s, call_s, read_trace(graph, traced, WARM_UP))


def run_s(session: Session, feeds: Sample, clock: Callable[[], float]) -> float:
    """Return the seconds of one run.

    Args:
        session: of any segment.
        feeds: one array for each of its inputs.
        clock: returns seconds.
    """
    feeds = dict(feeds)
    start_s = clock()
    session.run(None, feeds)
    return clock() - start_s


def _op_s(graph: ModelGraph, whole: _Whole) -> np.ndarray:
    """Return the seconds [ops] of the operations, which add up to the whole without the call."""
    group_s = whole.trace.group_s + whole.trace.enter_s + whole.trace.leave_s
    if not group_s.any():  # an executor that reports no operations: share by arithmetic
        group_s = np.array([sum(graph.ops[i].work_flop for i in group) for group in graph.groups])
    return split_by_work(graph, group_s * (whole.median_s - whole.call_s) / group_s.sum())


def _run_blocks(
    graph: ModelGraph, sample: Sample, whole: Trace, folder: Path, engine: Engine, report: Callable[[str], None]
) -> "_Ends":
    """Run each block between neighbouring cuts, and return what segments pay extra at the ends of blocks."""
    values = _values(graph, sample, cut_tensors(graph), engine)
    ends = _Ends({}, {})
    for first, last in _blocks(graph):
        report(f"running the block before {', '.join(last)}")
        block = _run_block(graph, {name: values[name] for name in first}, last, folder, engine)
        _add_ends(ends, _main(graph, first), _main(graph, last), block, whole)
    return ends


def _run_block(graph: ModelGraph, feeds: Sample, outputs: Sequence[str], folder: Path, engine: Engine) -> Trace:
    session = open_traced(graph, tuple(feeds), outputs, folder, engine.threads, engine.providers)
    for _ in range(BLOCK_RUNS):
        run_s(session, feeds, engine.clock)
    return read_trace(graph, session)


def _values(graph: ModelGraph, sample: Sample, names: Sequence[str], engine: Engine) -> dict[str, np.ndarray]:
    """Return tensors of the network, and its inputs, for one sample."""
    made = [name for name in names if name not in graph.inputs]
    values = {name: np.asarray(sample[name]) for name in graph.inputs}
    if made:
        session = open_session(graph, segment(graph, graph.inputs, made), engine.threads, engine.providers)
        results = map(np.asarray, session.run(made, dict(sample)))
        values |= dict(zip(made, results, strict=True))
    return values


def _activations(
    graph: ModelGraph, samples: Sequence[Sample], names: Sequence[str], engine: Engine, report: Callable[[str], None]
) -> Iterator[Mapping[str, np.ndarray]]:
    """Yield some tensors of the network for each sample."""
    for sample in samples:
        report("encoding activations")
        values = _values(graph, sample, names, engine)
        yield {name: values[name] for name in names}


def _main(graph: ModelGraph, names: Sequence[str]) -> str:
    """Return the tensor that stands for all at an end of a block: the largest that the network computes."""
    computed = [name for name in names if name not in graph.inputs]
    return max(computed or names, key=lambda name: graph.tensors[name].size_bits)


class _Ends(NamedTuple):
    """Extra seconds of segments that start and end at a tensor, by its name."""

    enter_s: dict[str, float]
    leave_s: dict[str, float]


def _add_ends(ends: _Ends, first: str, last: str, block: Trace, whole: Trace) -> None:
    """Add the changes of layout in a block that the same operations do not need in the middle of the network."""
    ran = block.group_s > 0
    ends.enter_s[first] = max(0.0, float((block.enter_s - whole.enter_s * ran).sum()))
    ends.leave_s[last] = max(0.0, float((block.leave_s - whole.leave_s * ran).sum()))


def _complete(graph: ModelGraph, measured: _Ends, whole: Trace) -> _Ends:
    """Return the ends of all tensors: as measured, or by their bytes if a neighbour uses the executor's own layout."""
    group_of = {i: k for k, group in enumerate(graph.groups) for i in group}
    enters = {name: any(whole.blocked[group_of[i]] for i in graph.consumers[name]) for name in graph.tensors}
    leaves = {name: bool(whole.blocked[group_of[i]]) for name, i in graph.producer.items()}
    return _Ends(_by_bytes(graph, measured.enter_s, enters), _by_bytes(graph, measured.leave_s, leaves))


def _by_bytes(graph: ModelGraph, known_s: Mapping[str, float], changes: Mapping[str, bool]) -> dict[str, float]:
    """Return seconds for every tensor; blocked layouts are for images, so only tensors of four axes change theirs."""
    images = {name for name, tensor in graph.tensors.items() if len(tensor.shape) == 4 and changes.get(name)}
    paid = [known_s[name] / graph.tensors[name].size_bits for name in images if known_s.get(name)]
    rate = float(np.median(paid)) if paid else 0.0
    return {
        name: known_s.get(name, rate * tensor.size_bits if name in images else 0.0)
        for name, tensor in graph.tensors.items()
    }


def split_by_work(graph: ModelGraph, group_s: Sequence[float]) -> np.ndarray:
    """Return the time of each operation [ops], given that of its fused group.

    Args:
        graph: its operations share their group's time by arithmetic, or equally if the group has none.
        group_s: [groups] seconds.
    """
    op_s = np.zeros(len(graph.ops))
    for group, seconds in zip(graph.groups, group_s, strict=True):
        work = np.array([graph.ops[i].work_flop for i in group])
        op_s[list(group)] = seconds * (work / work.sum() if work.sum() > 0 else np.full(len(group), 1 / len(group)))
    return op_s

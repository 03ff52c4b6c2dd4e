"""Runs any piece of a network, from named tensors to named tensors. Pieces are opened on first use and cached."""

import math
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnxruntime as ort

from coinfer.errors import UserError
from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx.subgraphs import reads
from coinfer.graph.segment import Segment, segment
from coinfer.graph.session import failed_operation, open_session, silent
from coinfer.graph.sizes import sizes_of
from coinfer.runtime.batch_profile import UNMEASURED, BatchProfile, batch_cache, measure_batches
from coinfer.runtime.emulation.slowdown import emulate_slowdown
from coinfer.runtime.openvino_engine import openvino_opener
from coinfer.runtime.piece_memory import Owner, PieceKey, PieceMemory, nbytes
from coinfer.runtime.protocol.messages import WireError
from coinfer.runtime.providers import (
    CPU,
    check_provider,
    compiles,
    engine_folder,
    is_onnxruntime,
    session_providers,
)

Arrays = Mapping[str, np.ndarray]
Runner = Callable[[Arrays, "Abort | None"], list[np.ndarray]]
Names = tuple[str, ...]
Piece = tuple[Names, Names]
"""Inputs and outputs."""
CACHE_BYTES = 2 * 1024**3
"""Weights of opened pieces that stay cached. Engines hold rearranged copies, so this also bounds their memory."""
MAX_PIECES = 64
WARM_S = 0.2
"""`Executor.warm` measures no longer than this."""
WARM_AGAIN_S = 60.0
"""Many devices that join at the same time ask for the same measurement; one that is no older is not made again."""


class RequestError(UserError):
    """Inputs or outputs that do not fit the network; the message is one line for a person."""


class InputError(RequestError):
    """Values that the network cannot take, although their names, types and shapes fit."""


class Abort:
    """Stops a run from another thread, after the current operation. OpenVINO does not stop: it runs to the end."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self._options: ort.RunOptions | None = None
        self._callbacks: list[Callable[[], object]] = []

    def options(self) -> ort.RunOptions:
        """Return the run options of the run that is to be stopped."""
        self._options = options = silent()
        options.terminate = self.event.is_set()
        return options

    def set(self) -> None:
        """Stop the run, also if it has not begun."""
        self.event.set()
        if self._options is not None:
            self._options.terminate = True
        for callback in self._callbacks:
            callback()

    def on_set(self, callback: Callable[[], object]) -> None:
        """Stop something else too, at once if the run is stopped already.

        Args:
            callback: may be called more than once, on any thread.
        """
        self._callbacks.append(callback)
        if self.event.is_set():
            callback()


def check_slowdown(slowdown: float) -> None:
    """Refuse a slow-down factor that is out of range.

    Args:
        slowdown: emulated over real time; 1 is this machine's own speed.

    Raises:
        RequestError: if it is below 1 or not finite.
    """
    if not 1 <= slowdown < math.inf:
        raise RequestError(f"slowdown {slowdown} is not a number from 1 up; 2 is half as fast as this machine")


class Executor:
    """Runs pieces of a network, from any number of threads.

    Args:
        graph: the network; pieces of its bottleneck, if it has one, run too.
        threads: threads within an operation.
        slowdown: emulated over real time of a run (`emulation.slowdown`). With one thread the processor time counts, so
            that other load on the machine does not slow the emulated processor.
        provider: short name of what computes (`providers`). OpenVINO's own runtime computes in float32 here; its own
            default on many processors is bfloat16.
        memory: of opened pieces, which other networks may share; without one, it keeps 2 GiB of its own.

    Raises:
        RequestError: if a setting is out of range, or the provider is not installed.
    """

    def __init__(
        self,
        graph: ModelGraph,
        threads: int = 1,
        slowdown: float = 1.0,
        provider: str = CPU,
        memory: PieceMemory[Runner] | None = None,
    ):
        check_slowdown(slowdown)
        if threads < 1:
            raise RequestError(f"threads {threads} is not a number from 1 up")
        self.graph = graph
        self.slowdown = slowdown
        self._threads = threads
        check_provider(provider)
        opener = _onnxruntime if is_onnxruntime(provider) else openvino_opener
        self._open = opener(graph, threads, provider)
        inner = None if graph.bottleneck is None else graph.bottleneck.graph
        self._open_inner = None if inner is None else opener(inner, threads, provider)
        self._provider = provider
        self._own_thread = threads == 1 and provider == CPU
        """The processor time of the calling thread is that of a run."""
        self._batches: dict[Piece, BatchProfile] = {}
        self._memory = memory or PieceMemory[Runner](CACHE_BYTES, MAX_PIECES)
        self.owner = Owner(graph.weights)
        """By which the network's pieces are known in its memory."""
        self._warmed: dict[Piece, tuple[float, float]] = {}  # when each piece was measured, and what it took

    def run(
        self, inputs: Arrays, outputs: Sequence[str] = (), abort: Abort | None = None
    ) -> tuple[dict[str, np.ndarray], float]:
        """Compute tensors from others.

        Args:
            inputs: arrays by name; a batch axis may have any size if the network allows it.
            outputs: names of the tensors to compute; none stands for the network's outputs.
            abort: stops the run.

        Returns:
            The outputs by name, and the seconds that computing took; inputs that are also outputs are passed through.

        Raises:
            RequestError: if the inputs do not fit the network, or the outputs do not follow from them.
            InputError: if an operation refuses the values.
            WireError: CANCELLED if `abort` stopped the run.
        """
        outputs = tuple(outputs) or self.graph.outputs
        self.check(inputs)
        passed = {name: inputs[name] for name in outputs if name in inputs}
        missing = tuple(name for name in outputs if name not in passed)
        runner = self._runner(tuple(inputs), missing)
        if not missing:
            return {name: passed[name] for name in outputs}, 0.0
        sleep = time.sleep if abort is None else abort.event.wait
        values, took_s = emulate_slowdown(lambda: runner(inputs, abort), self.slowdown, self._clock, sleep)
        computed = passed | dict(zip(missing, values, strict=True))
        return {name: computed[name] for name in outputs}, took_s

    def measure(self, inputs: Arrays, outputs: Sequence[str]) -> tuple[dict[str, np.ndarray], float]:
        """Compute tensors from others, not slowed; return them by name, and the seconds for a profile.

        With one thread the processor time counts, so that other load on the machine does not.

        Args:
            inputs: arrays by name.
            outputs: names of the tensors to compute, none of which is an input.

        Raises:
            RequestError: if the outputs do not follow from the inputs.
        """
        runner, clock = self._runner(tuple(inputs), tuple(outputs)), self._clock
        began_s = clock()
        values = runner(inputs, None)
        took_s = clock() - began_s
        return dict(zip(outputs, values, strict=True)), took_s

    @property
    def _clock(self) -> Callable[[], float]:
        return time.thread_time if self._own_thread else time.perf_counter

    def check(self, inputs: Arrays) -> Mapping[str, int]:
        """Check names, dtypes, shapes and the common sizes of free axes of inputs.

        Args:
            inputs: arrays by name.

        Returns:
            The sizes of free axes that are not the smallest, by name.

        Raises:
            RequestError: if one does not fit; the message names it, what was expected and what came.
        """
        part = self.graph.part(inputs)
        try:
            sizes = sizes_of(part, inputs)
        except GraphError as error:
            raise RequestError(str(error)) from None
        smallest = {axis.name: axis.low for axis in part.axes}
        return {name: size for name, size in sizes.items() if size != smallest.get(name)}

    def hold(self, inputs: Sequence[str], outputs: Sequence[str] = ()) -> bool:
        """Keep an open piece in memory until `release`; return false if it has to be opened first.

        Args:
            inputs: names of the piece's inputs, in the order in which `run` gets them.
            outputs: names of its outputs; none stands for the network's outputs.
        """
        key = self._key(inputs, outputs)
        return not key[1] or self._memory.hold(PieceKey(self.owner, *key))

    def release(self, inputs: Sequence[str], outputs: Sequence[str] = ()) -> None:
        """End a `hold`.

        Args:
            inputs: names of the piece's inputs.
            outputs: names of its outputs; none stands for the network's outputs.
        """
        self._memory.release(PieceKey(self.owner, *self._key(inputs, outputs)))

    @property
    def settings(self) -> tuple[int, float, str]:
        """Return threads, slow-down and provider; executors of one network with the same ones do the same."""
        return self._threads, self.slowdown, self._provider

    def prepare(self, inputs: Sequence[str], outputs: Sequence[str] = (), *, hold: bool = False) -> None:
        """Open a piece for later runs; wait if another thread is opening it.

        Args:
            inputs: names of the piece's inputs.
            outputs: names of its outputs; none stands for the network's outputs.
            hold: whether to keep it in memory until `release`.

        Raises:
            RequestError: if a tensor is unknown, or the outputs do not follow from the inputs.
        """
        self._runner(*self._key(inputs, outputs), hold=hold)

    def cold(self) -> dict[Piece, float]:
        """Return the pieces that were open once and are not now, with the seconds that opening them takes."""
        return {(key.inputs, key.outputs): load_s for key, load_s in self._memory.cold(self.owner).items()}

    def close(self) -> None:
        """Drop all pieces; runs that have begun go on."""
        self._memory.forget(self.owner)

    def warm(self, inputs: Sequence[str], outputs: Sequence[str] = (), runs: int = 3) -> float:
        """Return the median of the seconds that a piece takes on zeros at batch 1, after opening it.

        Args:
            inputs: names of the piece's inputs.
            outputs: names of its outputs; none stands for the network's outputs.
            runs: measured runs after a first one, fewer if they take longer than `WARM_S`; if 0, the first one counts.

        Raises:
            RequestError: if a tensor is unknown, or the outputs do not follow from the inputs.
        """
        self.prepare(inputs, outputs)
        part = self.graph.part((*inputs, *outputs))
        tensors = (part.tensors[name] for name in inputs)
        zeros = {tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in tensors}
        key, now_s = self._key(inputs, outputs), time.monotonic()
        at_s, known_s = self._warmed.get(key, (-math.inf, 0.0))
        if now_s - at_s < WARM_AGAIN_S:
            return known_s
        first_s = self.run(zeros, outputs)[1]
        took_s: list[float] = []
        while len(took_s) < runs and sum(took_s) < WARM_S:
            took_s.append(self.run(zeros, outputs)[1])
        if not took_s:
            return first_s
        self._warmed[key] = (now_s, statistics.median(took_s))
        return self._warmed[key][1]

    def batches(self, inputs: Sequence[str], outputs: Sequence[str] = ()) -> BatchProfile:
        """Return how a piece behaves in batches; as never batched if that was not measured (`measure_batches`).

        Args:
            inputs: names of the piece's inputs.
            outputs: names of its outputs; none stands for the network's outputs.
        """
        return self._batches.get(self._key(inputs, outputs), UNMEASURED)

    def measure_batches(self, inputs: Sequence[str], outputs: Sequence[str], limit: int) -> BatchProfile:
        """Measure how a piece behaves in batches, or read it from the user's cache; may take seconds.

        Args:
            inputs: names of the piece's inputs.
            outputs: names of its outputs; none stands for the network's outputs.
            limit: largest batch that is to be allowed.

        Raises:
            RequestError: if a tensor is unknown, or the outputs do not follow from the inputs.
        """
        key = self._key(inputs, outputs)
        part = self.graph.part((*key[0], *key[1]))
        cache, label = batch_cache(part, self._threads, self._provider), f"{'+'.join(key[0])} to {'+'.join(key[1])}"
        profile = cache.get(label)
        if profile is None:
            runner = self._runner(*key)
            profile = measure_batches(part, *key, lambda arrays: runner(arrays, None), self._clock)
            cache.put(label, profile)
        self._batches[key] = profile.limited(limit)
        return self._batches[key]

    def _key(self, inputs: Sequence[str], outputs: Sequence[str]) -> Piece:
        return tuple(inputs), tuple(name for name in tuple(outputs) or self.graph.outputs if name not in inputs)

    def _runner(self, inputs: Names, outputs: Names, *, hold: bool = False) -> Runner:
        """Return the opened piece. The first thread that asks for it opens it; others wait."""
        if not outputs:
            return lambda arrays, abort: []
        key = PieceKey(self.owner, inputs, outputs)
        try:
            part = self.graph.part((*inputs, *outputs))
            open_piece = self._open if part is self.graph or self._open_inner is None else self._open_inner
            if self._memory.has(key):
                return self._memory.get(key, 0, lambda: open_piece(_needed(part, inputs, outputs)), hold=hold)
            piece = _needed(part, inputs, outputs)
            size_bytes = sum(nbytes(part.weights, name) for name in piece.weights)
            return self._memory.get(key, size_bytes, lambda: open_piece(piece), hold=hold)
        except GraphError as error:
            raise RequestError(str(error)) from None


def _needed(graph: ModelGraph, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Segment:
    """Return the piece without inputs that the outputs do not need (engines refuse them)."""
    piece = segment(graph, inputs, outputs)
    read = {name for node in piece.proto.graph.node for name in reads(node)}
    return segment(graph, tuple(name for name in inputs if name in read), outputs)


def _onnxruntime(graph: ModelGraph, threads: int, provider: str) -> Callable[[Segment], Runner]:
    def open_piece(piece: Segment) -> Runner:
        kept = engine_folder(provider, graph.fingerprint, piece.name) if compiles(provider) else None
        session = open_session(graph, piece, threads, session_providers(provider, kept))
        outputs = list(piece.outputs)

        def run(inputs: Arrays, abort: Abort | None) -> list[np.ndarray]:
            feed = {name: inputs[name] for name in piece.inputs}
            try:
                values = session.run(outputs, feed, silent() if abort is None else abort.options())
            except Exception as error:
                if abort is not None and abort.event.is_set():
                    raise WireError("CANCELLED", "the caller gave up", "cancelled") from None
                raise _input_error(graph.name, str(error)) or error from None
            return [np.asarray(value) for value in values]

        return run

    return open_piece


_OUT_OF_MEMORY = ("Failed to allocate", "bad_alloc")


def _input_error(network: str, message: str) -> InputError | None:
    """Return the error for an operation that refuses its values; None if the message says anything else."""
    problem = failed_operation(message)
    if problem is None or any(words in message for words in _OUT_OF_MEMORY):
        return None
    return InputError(f"{network} cannot take these values: {problem}")

"""What an edge node serves: a network, or the echo of a tensor."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from coinfer.graph.fingerprints import is_fingerprint_of_one
from coinfer.graph.ir import ModelGraph
from coinfer.runtime.batch_profile import BatchProfile
from coinfer.runtime.codec.symbols import SymbolCodec, symbol_codecs
from coinfer.runtime.executor import Abort, Arrays, Executor, RequestError
from coinfer.runtime.piece_memory import Owner
from coinfer.runtime.protocol.messages import DATATYPES

ECHO = "echo"
VERSION = "1"
PLATFORM = "onnxruntime_onnx"


class Signature(NamedTuple):
    """A tensor of a model as the protocol describes it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    """-1 for an axis that is free."""


class ModelInfo(Protocol):
    """What a service reports about a model (`ServedModel`)."""

    @property
    def name(self) -> str:
        """Return the name by which requests call it."""
        ...

    @property
    def inputs(self) -> tuple[Signature, ...]:
        """Return its inputs."""
        ...

    @property
    def outputs(self) -> tuple[Signature, ...]:
        """Return its outputs."""
        ...

    @property
    def platform(self) -> str:
        """Return what computes it, such as `onnxruntime_onnx`."""
        ...


class ModelRunner(Protocol):
    """Computes the requests for a model (`executor.Executor`)."""

    @property
    def owner(self) -> Owner | None:
        """Return by what the model's pieces are known in its memory; None if they take none."""
        ...

    def run(
        self, inputs: Arrays, outputs: Sequence[str] = (), abort: Abort | None = None
    ) -> tuple[dict[str, np.ndarray], float]:
        """Return the outputs by name, and the seconds of computing.

        Args:
            inputs: arrays by tensor name; any tensors of the network.
            outputs: names of the tensors to compute; empty for the network's outputs.
            abort: stops the run between operations once it is set.

        Raises:
            RequestError: if the inputs do not fit the network, or the outputs do not follow from them.
        """
        ...

    def check(self, inputs: Arrays) -> Mapping[str, int]:
        """Check the inputs of a request without computing anything.

        Args:
            inputs: arrays by tensor name; may lack inputs that travel encoded.

        Returns:
            The sizes of free axes that are not the smallest, by name: of a batch, or a longer sequence.

        Raises:
            RequestError: if a name, type or shape is wrong.
        """
        ...

    def hold(self, inputs: Sequence[str], outputs: Sequence[str] = ()) -> bool:
        """Keep the open piece from inputs to outputs in memory until `release`; return false if it is not open.

        Args:
            inputs: names of the tensors that a request brings.
            outputs: names of the tensors to compute; empty for the network's outputs.
        """
        ...

    def release(self, inputs: Sequence[str], outputs: Sequence[str] = ()) -> None:
        """End a `hold`.

        Args:
            inputs: names of the tensors that a request brings.
            outputs: names of the tensors to compute; empty for the network's outputs.
        """
        ...

    def prepare(self, inputs: Sequence[str], outputs: Sequence[str] = (), *, hold: bool = False) -> None:
        """Open the piece from inputs to outputs; may take seconds.

        Args:
            inputs: names of the tensors that a request brings.
            outputs: names of the tensors to compute; empty for the network's outputs.
            hold: whether to keep it in memory until `release`.

        Raises:
            RequestError: if the outputs do not follow from the inputs.
        """
        ...

    def cold(self) -> Mapping[tuple[tuple[str, ...], tuple[str, ...]], float]:
        """Return inputs and outputs of pieces that were open once and are not now, with the seconds to open each."""
        ...

    def close(self) -> None:
        """Drop all pieces, as the model is served no longer; runs that have begun go on."""
        ...

    def warm(self, inputs: Sequence[str], outputs: Sequence[str] = (), runs: int = 3) -> float:
        """Run the piece on zeros, to open it and to time it.

        Args:
            inputs: names of the tensors that a request brings.
            outputs: names of the tensors to compute; empty for the network's outputs.
            runs: timed runs.

        Returns:
            The median seconds of a run.

        Raises:
            RequestError: if the outputs do not follow from the inputs.
        """
        ...

    def batches(self, inputs: Sequence[str], outputs: Sequence[str] = ()) -> BatchProfile:
        """Return how the piece behaves in batches, as far as that was measured.

        Args:
            inputs: names of the tensors that a request brings.
            outputs: names of the tensors to compute; empty for the network's outputs.
        """
        ...

    def measure_batches(self, inputs: Sequence[str], outputs: Sequence[str], limit: int) -> BatchProfile:
        """Measure how the piece behaves in batches; may take seconds.

        Args:
            inputs: names of the tensors that a request brings.
            outputs: names of the tensors to compute; empty for the network's outputs.
            limit: largest batch.

        Raises:
            RequestError: if the outputs do not follow from the inputs.
        """
        ...


class ServedModel(NamedTuple):
    """A model with its description and the runner that computes it."""

    name: str
    fingerprint: str
    inputs: tuple[Signature, ...]
    outputs: tuple[Signature, ...]
    platform: str
    runs: ModelRunner
    bottleneck: str = ""
    """Fingerprint of the model's bottleneck, if it has one."""
    symbols: Mapping[str, SymbolCodec] = MappingProxyType({})
    """What decodes the symbols of that, by tensor."""

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Return those that requests may state: of its bottleneck, if it has one, and of the model itself."""
        return (self.bottleneck, self.fingerprint) if self.bottleneck else (self.fingerprint,)

    def has(self, fingerprint: str) -> bool:
        """Return true if a fingerprint is that of the model or of its bottleneck.

        Args:
            fingerprint: that a request states.
        """
        return is_fingerprint_of_one(fingerprint, self.fingerprints)


def serve_graph(graph: ModelGraph, executor: Executor) -> ServedModel:
    """Return a network as a model; clients may ask for any part of it.

    Args:
        graph: names and describes the model.
        executor: computes it; must be of the same graph.
    """

    inputs, outputs = signatures(graph)
    bottleneck = graph.bottleneck
    return ServedModel(
        graph.name,
        graph.fingerprint,
        inputs,
        outputs,
        PLATFORM,
        executor,
        "" if bottleneck is None else bottleneck.graph.fingerprint,
        symbol_codecs(graph),
    )


def signatures(graph: ModelGraph) -> tuple[tuple[Signature, ...], tuple[Signature, ...]]:
    """Return the inputs and the outputs of a network as the protocol describes them.

    Args:
        graph: the network.
    """

    def signature(name: str) -> Signature:
        tensor = graph.tensors[name]
        shape = tuple(-1 if isinstance(size, str) else size for size in graph.free_shape(name))
        return Signature(name, DATATYPES.get(tensor.dtype, str(tensor.dtype)), shape)

    return tuple(map(signature, graph.inputs)), tuple(map(signature, graph.outputs))


def serve_echo() -> ServedModel:
    """Return a model that answers a float32 tensor `x` with itself, or with its size, to measure links."""
    outputs = (Signature("y", "FP32", (-1,)), Signature("elements", "INT64", (1,)))
    return ServedModel(ECHO, "", (Signature("x", "FP32", (-1,)),), outputs, "coinfer_echo", _Echo())


_NO_BATCHES = BatchProfile(reason="it computes nothing")


class _Echo:
    owner = None

    def run(
        self, inputs: Arrays, outputs: Sequence[str] = (), abort: Abort | None = None
    ) -> tuple[dict[str, np.ndarray], float]:
        self.check(inputs)
        if "x" not in inputs:
            raise RequestError(f"{ECHO} needs the input 'x'")
        known = {"y": inputs["x"], "elements": np.array([inputs["x"].size])}
        if set(outputs) - set(known):
            raise RequestError(f"{ECHO} has the outputs y and elements, not {', '.join(outputs)}")
        return {name: known[name] for name in outputs or known}, 0.0

    def check(self, inputs: Arrays) -> Mapping[str, int]:
        for name, array in inputs.items():
            if name != "x" or array.dtype != np.float32:
                raise RequestError(f"input {name!r}: expected 'x' of float32, got {array.dtype}")
        return {}

    def hold(self, inputs: Sequence[str], outputs: Sequence[str] = ()) -> bool:
        return True

    def release(self, inputs: Sequence[str], outputs: Sequence[str] = ()) -> None:
        pass

    def prepare(self, inputs: Sequence[str], outputs: Sequence[str] = (), *, hold: bool = False) -> None:
        pass

    def cold(self) -> Mapping[tuple[tuple[str, ...], tuple[str, ...]], float]:
        return {}

    def close(self) -> None:
        pass

    def warm(self, inputs: Sequence[str], outputs: Sequence[str] = (), runs: int = 3) -> float:
        return 0.0

    def batches(self, inputs: Sequence[str], outputs: Sequence[str] = ()) -> BatchProfile:
        return _NO_BATCHES

    def measure_batches(self, inputs: Sequence[str], outputs: Sequence[str], limit: int) -> BatchProfile:
        return self.batches(inputs, outputs)


Info = TypeVar("Info", bound=ModelInfo)


def models_by_name(served: Sequence[Info]) -> Mapping[str, Info]:
    """Return the models by name.

    Args:
        served: may be empty.

    Raises:
        RequestError: if two models have the same name.
    """
    names = [model.name for model in served]
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise RequestError(f"two models are called {duplicate!r}; rename one of the files")
    return dict(zip(names, served, strict=True))

"""Opens the networks of an edge node, at its start and while it serves."""

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx.sandbox import file_identity
from coinfer.graph.open_model import open_model
from coinfer.runtime.edge.served_model import ServedModel, serve_graph
from coinfer.runtime.executor import Executor, InputError, RequestError, Runner
from coinfer.runtime.piece_memory import PagedWeights, PieceMemory
from coinfer.runtime.providers import CPU, compiles

_log = logging.getLogger("coinfer.edge")
MAX_PIECES = 4096
"""Pieces in a memory that networks share."""


class ModelSettings(NamedTuple):
    """How an edge node opens networks."""

    models: tuple[str, ...]
    """ONNX files or names of zoo networks."""
    shapes: Mapping[str, str]
    limits: Mapping[str, int | str]
    threads: int = 1
    slowdown: float = 1.0
    provider: str = CPU
    batch: int = 1
    """Requests for one piece that may run as one batch."""
    memory_bytes: int | None = None
    """For pieces and weights of all networks; None keeps all networks, and 2 GiB of pieces of each."""


class ModelLoader:
    """Opens networks; they share one memory if it is limited.

    Args:
        settings: of the node.
    """

    def __init__(self, settings: ModelSettings):
        self._settings = settings
        limit_bytes = settings.memory_bytes
        self.memory = None if limit_bytes is None else PieceMemory[Runner](limit_bytes, MAX_PIECES)

    def load_all(self) -> tuple[ServedModel, ...]:
        """Open the networks of the settings and run each once, so that a node that is ready can compute.

        Raises:
            UserError: if a network cannot be opened, or two have the same name.
        """
        names = [Path(spec).stem for spec in self._settings.models]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise RequestError(f"two models are called {twice!r}; rename one of the files")
        return tuple(self.load(spec) for spec in self._settings.models)

    def load(self, spec: str) -> ServedModel:
        """Open one network and run it once.

        Args:
            spec: an ONNX file or the name of a zoo network.

        Raises:
            UserError: if it cannot be opened.
        """
        settings, graph = self._settings, self._open(spec)
        if self.memory is not None:
            graph = self._paged(spec, graph)
        executor = Executor(graph, settings.threads, settings.slowdown, settings.provider, self.memory)
        if compiles(settings.provider):
            _log.info("compiling %s with %s; later starts find it compiled", graph.name, settings.provider)
        with suppress(InputError):  # it is open; what values it takes is for clients to know
            executor.warm(graph.inputs, runs=0)
        if settings.batch > 1:
            batches = executor.measure_batches(graph.inputs, graph.outputs, settings.batch)
            _log.info("requests for %s: %s", graph.name, batches.sentence())
        return serve_graph(graph, executor)

    def _open(self, spec: str) -> ModelGraph:
        """Return one of the networks; where a size does not fit it, say how sizes are given to one of several."""
        settings = self._settings
        with shapes_for_one_hint(settings.models):
            return open_model(spec, shapes_of(spec, settings.models, settings.shapes), limits=settings.limits)

    def _paged(self, spec: str, graph: ModelGraph) -> ModelGraph:
        """Return the network with weights that can leave memory."""
        identity = file_identity(Path(spec))

        def reload() -> Mapping[str, np.ndarray]:
            again = self._open(spec)
            if file_identity(Path(spec)) != identity and again.fingerprint != paged.fingerprint:
                raise GraphError(f"{spec}: another network than the one that was loaded; load {graph.name} anew")
            return again.weights

        paged = replace(graph, weights=PagedWeights(graph.weights, reload))
        assert paged.fingerprint, "computed now, while the weights are here"
        return paged


@contextmanager
def shapes_for_one_hint(models: Sequence[str]) -> Generator[None]:
    """Where a size does not fit one of several networks, say how sizes are given to one alone.

    Args:
        models: ONNX files or names of zoo networks.

    Raises:
        GraphError: what came, with the hint.
    """
    try:
        yield
    except GraphError as error:
        if len(models) > 1 and "no axis or input is called" in str(error):
            raise GraphError(f"{error}; --shape MODEL:NAME=SIZES is for one of the networks alone") from error
        raise


def shapes_of(spec: str, models: Sequence[str], shapes: Mapping[str, str]) -> dict[str, str]:
    """Return the sizes for one of several models: those of `NAME` are for every file, those of `MODEL:NAME` for one.

    Args:
        spec: one of the models.
        models: ONNX files or names of zoo networks.
        shapes: sizes by name.
    """
    own = {name.removeprefix(f"{Path(spec).stem}:"): sizes for name, sizes in shapes.items()}
    others = tuple(f"{Path(model).stem}:" for model in models)
    return {name: sizes for name, sizes in own.items() if not name.startswith(others) and Path(spec).suffix}

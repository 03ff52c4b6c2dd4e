"""Open a piece of a network in ONNX Runtime. The weights stay where the graph holds them, in memory once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort

from coinfer.graph.ir import GraphError, ModelGraph

if TYPE_CHECKING:
    from coinfer.graph.segment import Segment

CPU = "CPUExecutionProvider"
_ERRORS_ONLY = 3


class Session(ort.InferenceSession):
    """An ONNX Runtime session that keeps the weights alive whose memory it borrows."""

    def __init__(
        self, model: bytes, options: ort.SessionOptions, providers: Sequence[str], weights: Mapping[str, np.ndarray]
    ) -> None:
        self.borrowed = [ort.OrtValue.ortvalue_from_numpy(np.asarray(w, order="C")) for w in weights.values()]
        if weights:
            options.add_external_initializers(list(weights), self.borrowed)
        super().__init__(model, options, providers=list(providers))


def open_session(
    graph: ModelGraph,
    segment: "Segment",
    threads: int = 1,
    providers: Sequence[str] = (CPU,),
    profile_prefix: Path | None = None,
) -> Session:
    """A session that runs `segment` of `graph`.

    Spinning is off: with other work on the cores, threads that spin lose a factor of 2 to 10.

    Args:
        threads: threads within an operation; operations run one after another.
        providers: ONNX Runtime's execution providers, the preferred first.
        profile_prefix: where given, ONNX Runtime writes its own profile to a file whose name starts so.

    Raises:
        GraphError: where ONNX Runtime lacks a provider or refuses the segment.
    """
    missing = [name for name in providers if name not in ort.get_available_providers()]
    if missing:
        known = ", ".join(ort.get_available_providers())
        raise GraphError(f"{graph.name}: no execution provider {missing[0]!r} in this ONNX Runtime; it has {known}")
    options = session_options(threads)
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    weights = {name: graph.weights[name] for name in segment.weights}
    try:
        return Session(segment.proto.SerializeToString(), options, providers, weights)
    except Exception as error:  # ONNX Runtime's exceptions share no base class below this one
        reason = " ".join(str(error).split())
        raise GraphError(f"{graph.name}: ONNX Runtime refuses segment {segment.name}: {reason}") from error


def session_options(threads: int = 1) -> ort.SessionOptions:
    """One thread pool per session that never spins, operations in sequence."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options

"""Opens a segment in ONNX Runtime. The weights stay where the graph holds them, so they are in memory once."""

import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort

from coinfer.errors import short_repr
from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.layout import hold_layout

if TYPE_CHECKING:
    from coinfer.graph.segment import Segment

CPU = "CPUExecutionProvider"
_ERRORS_ONLY, _NOTHING = 3, 4
_FAILED_NODE = re.compile(r"while running (\S+) node\. Name:'([^']*)' Status Message: (?:/.* was false\. )?([^\n]*)")
_REUSE_OPERATIONS = 1000
"""Up to so many operations ONNX Runtime looks for tensors whose memory others may take over. It compares each with all
before it where sizes are free; without, memory is freed and allocated as the network runs, which is as fast."""
_BLOCKED_LAYOUT = platform.machine().lower() in {"x86_64", "amd64"}


Provider = str | tuple[str, dict[str, str]]
"""Name of an execution provider, perhaps with its options."""


class Session(ort.InferenceSession):
    """An ONNX Runtime session that keeps alive the weights whose memory it borrows."""

    def __init__(
        self,
        model: bytes,
        options: ort.SessionOptions,
        providers: Sequence[Provider],
        weights: Mapping[str, np.ndarray],
    ) -> None:
        self.borrowed = [ort.OrtValue.ortvalue_from_numpy(np.asarray(w, order="C")) for w in weights.values()]
        if weights:
            options.add_external_initializers(list(weights), self.borrowed)
        super().__init__(model, options, providers=list(providers))


def open_session(
    graph: ModelGraph,
    segment: "Segment",
    threads: int = 1,
    providers: Sequence[Provider] = (CPU,),
    profile_prefix: Path | None = None,
) -> Session:
    """Return a session that runs a segment.

    Spinning is off: with other work on the cores, threads that spin lose a factor of 2 to 10.

    Args:
        graph: the network, which holds the weights.
        segment: of that network.
        threads: threads within an operation; operations run one after another.
        providers: ONNX Runtime's execution providers, alone or with their options, the preferred one first.
        profile_prefix: ONNX Runtime writes a profile to a file whose name starts with it; None writes none.

    Raises:
        GraphError: if ONNX Runtime lacks a provider or refuses the segment.
    """
    names = [provider if isinstance(provider, str) else provider[0] for provider in providers]
    missing = [name for name in names if name not in ort.get_available_providers()]
    if missing:
        known = ", ".join(ort.get_available_providers())
        raise GraphError(f"{graph.name}: no execution provider {missing[0]!r} in this ONNX Runtime; it has {known}")
    options = session_options(threads)
    options.enable_mem_reuse = len(segment.proto.graph.node) <= _REUSE_OPERATIONS
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    weights = {name: graph.weights[name] for name in segment.weights}
    is_blocked = names[0] == CPU and _BLOCKED_LAYOUT
    proto = hold_layout(segment.proto, graph.blocked_tensors) if is_blocked else segment.proto
    try:
        return Session(proto.SerializeToString(), options, providers, weights)
    except Exception as error:  # ONNX Runtime's exceptions share no base class below this one
        reason = " ".join(str(error).split())
        raise GraphError(f"{graph.name}: ONNX Runtime refuses segment {segment.name}: {reason}") from error


def session_options(threads: int = 1) -> ort.SessionOptions:
    """Return options for a session with its own thread pool, which never spins, and operations in sequence.

    Args:
        threads: threads within an operation.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def silent() -> ort.RunOptions:
    """Return options of a run that prints nothing; errors are raised all the same."""
    options = ort.RunOptions()
    options.log_severity_level = _NOTHING
    return options


def failed_operation(message: str) -> str | None:
    """Return which operation refused its values and why, from a message of ONNX Runtime that says so.

    Args:
        message: of the error.
    """
    match = _FAILED_NODE.search(message)
    if match is None:
        return None
    operation = " ".join(filter(None, (match[1], match[2] and repr(match[2]))))
    return f"{operation}: {short_repr(match[3], 200)[1:-1]}"

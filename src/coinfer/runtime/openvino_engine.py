"""Pieces of a network in OpenVINO's own runtime."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx

from coinfer.graph.ir import ModelGraph
from coinfer.runtime.providers import engine_folder

if TYPE_CHECKING:
    from coinfer.graph.segment import Segment
    from coinfer.runtime.executor import Abort, Arrays, Runner


def openvino_opener(graph: ModelGraph, threads: int, provider: str) -> "Callable[[Segment], Runner]":
    """Return the function that opens a piece of a network in OpenVINO, in float32 on the processor.

    Args:
        graph: the network, which holds the weights.
        threads: threads within an operation.
        provider: `openvino`, for the folder of what it compiles.
    """
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}

    def open_piece(piece: "Segment") -> "Runner":
        kept = engine_folder(provider, graph.fingerprint, piece.name)
        cached = settings if kept is None else settings | {"CACHE_DIR": str(kept)}
        compiled = core.compile_model(core.read_model(_inline(graph, piece)), "CPU", cached)
        outputs = [compiled.output(name) for name in piece.outputs]
        idle: list[openvino.InferRequest] = []  # requests that no thread uses now

        def run(inputs: "Arrays", abort: "Abort | None") -> list[np.ndarray]:
            request = idle.pop() if idle else compiled.create_infer_request()
            values = request.infer({name: inputs[name] for name in piece.inputs}, share_inputs=True)
            copies = [np.array(values[output]) for output in outputs]
            idle.append(request)
            return copies

        return run

    return open_piece


def _inline(graph: ModelGraph, piece: "Segment") -> bytes:
    """Return the piece as one model with its weights."""
    proto = onnx.ModelProto()
    proto.CopyFrom(piece.proto)
    for tensor in proto.graph.initializer:
        if tensor.name in graph.weights:
            tensor.CopyFrom(onnx.numpy_helper.from_array(graph.weights[tensor.name], tensor.name))
    return proto.SerializeToString()

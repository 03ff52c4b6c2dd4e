"""What a file computes in ONNX Runtime, and what its network computes whole and in two pieces, must be equal."""

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime as ort
from tests.graph.small_graphs import run

from coinfer.graph.ir import ModelGraph
from coinfer.graph.onnx.axes import Shapes
from coinfer.graph.onnx.load import from_proto
from coinfer.graph.session import session_options


def opened(proto: onnx.ModelProto, *feeds: Mapping[str, np.ndarray], sizes: Shapes | None = None) -> ModelGraph:
    """The network of a model, after its answers to some inputs were compared with the model's own, at every cut."""
    graph = from_proto(proto, "net", sizes=sizes or {})
    session = ort.InferenceSession(proto.SerializeToString(), session_options(), ["CPUExecutionProvider"])
    for feed in feeds:
        truth = session.run([graph.label(name) for name in graph.outputs], dict(feed))
        named = {name: feed[graph.label(name)] for name in graph.inputs}
        same(run(graph, named, graph.outputs), graph, truth)
        for cut in graph.useful_cuts()[1:-1]:
            same(run(graph, named | run(graph, named, cut.tensors), graph.outputs), graph, truth)
    return graph


def same(answers: Mapping[str, np.ndarray], graph: ModelGraph, truth: list[np.ndarray]) -> None:
    for name, expected in zip(graph.outputs, truth, strict=True):
        np.testing.assert_allclose(answers[name], expected, rtol=1e-5, atol=1e-6)
        assert answers[name].dtype == expected.dtype

"""What a cut changes is found at the smallest sizes and at larger ones."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from onnx import helper
from tests.graph.small_graphs import model

from coinfer.graph.onnx.load import from_proto
from coinfer.graph.segment import segment
from coinfer.graph.session import open_session
from coinfer.profile.exactness import cut_differences
from coinfer.profile.samples import random_samples

NODES = [
    helper.make_node("MatMul", ["x", "w"], ["h"]),
    helper.make_node("Relu", ["h"], ["r"]),
    helper.make_node("MatMul", ["r", "w"], ["y"]),
]
PROTO = model(NODES, {"x": ["N", "length", 4]}, ["y"], {"w": np.eye(4, dtype=np.float32)})


class Tail:
    """A piece that errs where its input is long."""

    def __init__(self, session, error: Exception | float):
        self.session, self.error = session, error

    def run(self, names: Sequence[str], feed: Mapping[str, np.ndarray], options: object) -> list[np.ndarray]:
        (value,) = self.session.run(names, feed, options)
        if feed["r"].shape[1] <= 8:
            return [value]
        if isinstance(self.error, Exception):
            raise self.error
        return [value + np.float32(self.error)]


@pytest.mark.parametrize(
    ("sizes", "error", "least", "most"),
    [
        ("8..", 0.5, 0.1, 0.9),
        ("8..9", 0.5, 0.1, 0.9),
        ("8..", RuntimeError("a size that this piece does not take"), 1.0, 1.0),
        ("8..", 0.0, 0.0, 0.0),
        ("8", 0.5, 0.0, 0.0),
    ],
)
def test_larger_sizes_count_too(sizes: str, error: Exception | float, least: float, most: float):
    graph = from_proto(PROTO, "net", sizes={"length": sizes})

    def open_(first: tuple[str, ...], last: tuple[str, ...]):
        session = open_session(graph, segment(graph, first, last))
        return Tail(session, error) if first == ("r",) else session

    (found,) = cut_differences(graph, random_samples(graph), [("r",)], graph.outputs, open_)  # pyright: ignore[reportArgumentType]
    assert least <= found <= most

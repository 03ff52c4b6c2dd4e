"""A file that crashes a library, eats memory or never ends costs a child process only."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from coinfer.graph.ir import GraphError
from coinfer.graph.onnx import sandbox
from coinfer.graph.onnx.limits import DEFAULT_LIMITS
from coinfer.graph.open_model import open_model
from coinfer.graph.segment import save_model
from coinfer.graph.zoo import networks
from coinfer.units import MIB


@pytest.fixture
def good(tmp_path: Path) -> Path:
    save_model(networks.build("resnet32"), tmp_path / "good.onnx")
    return tmp_path / "good.onnx"


def test_a_good_file_passes_and_opens(good: Path):
    sandbox.try_model(good)
    assert len(open_model(good).ops) == len(networks.build("resnet32").ops)


def test_the_gate_s_own_words_come_through(tmp_path: Path):
    path = tmp_path / "text.onnx"
    path.write_text("not a model")
    with pytest.raises(GraphError, match="not an ONNX model") as caught:
        open_model(path)
    assert "\n" not in str(caught.value)


def test_a_trial_without_end_is_stopped(tmp_path: Path):
    """A file of a few kB that computes for many seconds."""
    shape = [1, 1500, 1500]
    names = [f"x{i}" for i in range(100)]
    nodes = [helper.make_node("MatMul", [a, a], [b]) for a, b in pairwise(names)]
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in ("x0", names[-1]))
    model = helper.make_model(
        helper.make_graph(nodes, "long", inputs, outputs), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    onnx.save(model, tmp_path / "long.onnx")
    with pytest.raises(GraphError, match=r"more than 2 s of processor time; .*--limit trial-s=\d+ allows it"):
        sandbox.try_model(tmp_path / "long.onnx", limits=DEFAULT_LIMITS._replace(trial_s=2))


def test_a_model_that_needs_more_memory_than_allowed_is_refused(tmp_path: Path):
    """A few bytes of file that compute 3 GB: an outer product of a vector with itself."""
    size = 28_000
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [size, 1])
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["column"]),
        helper.make_node("Mul", ["column", "x"], ["square"]),
        helper.make_node("ReduceSum", ["square"], ["y"], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, size])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])]
    graph = helper.make_graph(nodes, "bomb", inputs, outputs, [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "bomb.onnx")
    assert size * size * np.float32().itemsize > sandbox.LOAD_MIB * MIB
    with pytest.raises(
        GraphError, match=r"more than the 8192 MiB of memory that we allow it; .*--limit memory-mib=\d+"
    ):
        open_model(tmp_path / "bomb.onnx")
    with pytest.raises(GraphError, match=r"more than the 2000 MiB"):
        open_model(tmp_path / "bomb.onnx", limits={"memory-mib": 2000})

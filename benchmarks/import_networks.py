"""Measure what opening large ONNX files takes: processor time and peak memory, the trial run in the sandbox included.

    python benchmarks/import_networks.py

Two kinds of networks: blocks of convolution, activations and sum, with a free batch; and layers of a transformer's kind
that compute the targets of their reshapes from a free length. Each file is opened by a process of its own, as a command
does; times are processor times of that process and its sandbox. Writes benchmarks/results/import_networks.json.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import harness
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BARS = {2000: (5.0, 1000.0), 20_000: (30.0, 3000.0)}
"""Operations: seconds and mebibytes."""
OPEN = """
import json, resource, sys, time
from coinfer.graph.open_model import open_model
graph = open_model(sys.argv[1], json.loads(sys.argv[2]))
own, child = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
took_s = time.process_time() + child.ru_utime + child.ru_stime
print(json.dumps({"s": took_s, "mib": max(own.ru_maxrss, child.ru_maxrss) / 1024}))
"""
node = helper.make_node


def convolutions(count: int) -> onnx.ModelProto:
    """Return blocks of four operations with a free batch."""
    weights = [numpy_helper.from_array(np.full((16, 16, 1, 1), 0.01, np.float32), f"w{i}") for i in range(8)]
    nodes = []
    for i in range(count // 4):
        x = f"a{i}" if i else "x"
        nodes += [node("Conv", [x, f"w{i % 8}"], [f"c{i}"]), node("Relu", [f"c{i}"], [f"r{i}"])]
        nodes += [node("Sigmoid", [f"r{i}"], [f"s{i}"]), node("Add", [f"r{i}", f"s{i}"], [f"a{i + 1}"])]
    return _model(nodes, ["N", 16, 8, 8], weights)


def computed_shapes(count: int) -> onnx.ModelProto:
    """Return layers of ten operations; six of them compute the targets of two reshapes from the shape."""
    values = {
        "w": np.full((16, 16), 0.01, np.float32),
        "one": np.array([1]),
        "two": np.array([2]),
        "half": np.array([8]),
    }
    weights = [numpy_helper.from_array(value, name) for name, value in values.items()]
    nodes = []
    for i in range(count // 10):
        x = f"a{i}" if i else "x"
        nodes += [node("MatMul", [x, "w"], [f"m{i}"]), node("Shape", [f"m{i}"], [f"s{i}"])]
        nodes += [node("Gather", [f"s{i}", "one"], [f"n{i}"]), node("Mul", [f"n{i}", "two"], [f"d{i}"])]
        nodes += [node("Concat", ["one", f"d{i}", "half"], [f"t{i}"], axis=0)]
        nodes += [node("Reshape", [f"m{i}", f"t{i}"], [f"f{i}"]), node("Tanh", [f"f{i}"], [f"h{i}"])]
        nodes += [node("Identity", [f"s{i}"], [f"b{i}"]), node("Reshape", [f"h{i}", f"b{i}"], [f"g{i}"])]
        nodes += [node("Add", [x, f"g{i}"], [f"a{i + 1}"])]
    return _model(nodes, [1, "length", 16], weights)


def _model(nodes: list[onnx.NodeProto], shape: list[int | str], weights: list[onnx.TensorProto]) -> onnx.ModelProto:
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    answer = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "large", [source], [answer], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    parser = harness.parser(__doc__, "import_networks")
    parser.add_argument("--rounds", type=int, default=5, help="rounds to measure")
    settings = parser.parse_args()
    counts, rounds = ((200,), 1) if settings.quick else (tuple(BARS), settings.rounds)
    figures = dict[str, harness.Figure]()
    with tempfile.TemporaryDirectory(prefix="coinfer-") as folder:
        for build, shapes in ((convolutions, {}), (computed_shapes, {"length": "16..512"})):
            for count in counts:
                path = Path(folder) / f"{build.__name__}-{count}.onnx"
                onnx.save(build(count), path)
                command = [sys.executable, "-c", OPEN, str(path), json.dumps(shapes)]
                name = f"{build.__name__.replace('_', ' ')}, {count} operations"
                found = [
                    json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
                    for _ in harness.rounds(rounds, name)
                ]
                at_most_s, at_most_mib = BARS.get(count, (None, None))
                figures[f"{name}: processor s"] = harness.figure([each["s"] for each in found], at_most=at_most_s)
                figures[f"{name}: MiB"] = harness.figure([each["mib"] for each in found], at_most=at_most_mib)
    harness.save(settings, figures)


if __name__ == "__main__":
    main()

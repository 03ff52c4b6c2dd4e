"""Measure the cold start of `coinfer edge` with one network: from the start of the process to its ready line and its
first answer.

    python benchmarks/cold_start.py

The network is an ONNX file. In the same rounds, a bare Python process imports ONNX Runtime, opens the same file and
runs it once. Both find their files in the page cache. Writes benchmarks/results/cold_start.json.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness
import numpy as np

from coinfer.demo.cluster import edges
from coinfer.graph.open_model import open_model
from coinfer.graph.segment import save_model
from coinfer.profile.samples import random_samples
from coinfer.runtime.protocol.messages import InferRequest, from_array
from coinfer.runtime.transport.grpc_transport import GrpcTransport, client_options

MODELS = ("resnet50", "mobilenetv2")
BARE = """
import sys
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options)
session.run(None, {session.get_inputs()[0].name: numpy.zeros((1, *session.get_inputs()[0].shape[1:]), numpy.float32)})
"""


def start_edge(path: Path, request: InferRequest) -> tuple[float, float]:
    """Return the seconds to the ready line and to the first answer."""
    began_s = time.perf_counter()
    with edges(str(path), [1.0], ["--http-port", "-1"]) as [edge]:
        ready_s = time.perf_counter() - began_s
        transport = GrpcTransport(options=client_options(patience_s=60.0))
        transport.send(edge.address, request, 60.0).result()
        answered_s = time.perf_counter() - began_s
        transport.close()
    return ready_s, answered_s


def start_bare(path: Path) -> float:
    """Return the seconds of a whole process that opens the file and runs it once."""
    began_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", BARE, str(path)], check=True)
    return time.perf_counter() - began_s


def main() -> None:
    parser = harness.parser(__doc__, "cold_start")
    parser.add_argument("--rounds", type=int, default=9, help="rounds to measure")
    settings = parser.parse_args()
    models, count = (["nin"], 1) if settings.quick else (MODELS, settings.rounds)
    figures = dict[str, harness.Figure]()
    with tempfile.TemporaryDirectory(prefix="coinfer-") as folder:
        for model in models:
            graph, path = open_model(model), Path(folder) / f"{model}.onnx"
            save_model(graph, path)
            x = dict(random_samples(graph)[0])[graph.inputs[0]]
            request = InferRequest(model, (from_array(graph.inputs[0], x),))
            times = [(*start_edge(path, request), start_bare(path)) for _ in harness.rounds(count, model)]
            for name, values in zip(("ready", "first answer", "bare process"), np.transpose(times), strict=True):
                figures[f"{model}: {name}, s"] = harness.figure(values)
    harness.save(settings, figures)


if __name__ == "__main__":
    main()

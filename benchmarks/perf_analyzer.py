"""Load a gateway with NVIDIA's perf_analyzer, over gRPC, over a gRPC stream and over REST.

    python benchmarks/perf_analyzer.py [--program PATH --model alexnet-cifar --seconds 5]

The program is part of Triton's SDK; the wheel of tritonclient 2.41 has it too, as `bin/perf_analyzer`, which needs the
libraries libb64 and CUDA's runtime. It asks with one and with four requests at a time until three windows agree.
Figures are of one run each. Writes benchmarks/results/perf_analyzer.json.
"""

import csv
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import harness
import numpy as np
from gateway import GATEWAY
from tensors import start

import coinfer

PROGRAM = GATEWAY.replace("http_port=None", "http_port=0")
WAYS = {"gRPC": ("grpc",), "gRPC stream": ("grpc", "--streaming"), "REST": ("http",)}


def measure(program: Path, model: str, address: str, way: tuple[str, ...], seconds: float) -> list[dict[str, str]]:
    """Return the rows of perf_analyzer's report, one for each number of requests at a time."""
    (name,) = (graph := coinfer.open_model(model)).inputs
    shape = ",".join(map(str, graph.tensors[name].shape))
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.csv"
        command = [program, "-m", model, "-u", address, "-i", *way, "--shape", f"{name}:{shape}", "-f", report]
        command += ["--concurrency-range", "1:4:3", "-p", str(round(seconds * 1000)), "-s", "90"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode or not report.exists():
            raise SystemExit(f"perf_analyzer failed:\n{done.stdout}{done.stderr}")
        rows = list(csv.DictReader(report.read_text().splitlines()))
        if len(rows) != 2:
            raise SystemExit(f"perf_analyzer found no stable rate; try longer --seconds:\n{done.stdout}")
        return sorted(rows, key=lambda row: int(row["Concurrency"]))


def main() -> None:
    parser = harness.parser(__doc__, "perf_analyzer")
    parser.add_argument("--program", type=Path, default="perf_analyzer", help="the program, if it is not on the path")
    parser.add_argument("--model", default="alexnet-cifar", help="a zoo network with one input")
    parser.add_argument("--seconds", type=float, default=5.0, help="a window of measuring")
    settings = parser.parse_args()
    process, line = start(PROGRAM.format(models=(settings.model,)), whole_line=True)
    addresses = {"grpc": line.split("grpc=")[1].split()[0], "http": line.split("http=")[1].split()[0]}
    figures = dict[str, harness.Figure]()
    try:
        for name, way in WAYS.items():
            rows = measure(settings.program, settings.model, addresses[way[0]], way, settings.seconds)
            for row in rows:
                at = f"{settings.model} over {name}, {row['Concurrency']} at a time"
                figures[f"{at}: requests per second"] = harness.figure(np.array([float(row["Inferences/Second"])]))
                median_ms = float(row["p50 latency"]) / 1e3
                figures[f"{at}: median latency, ms"] = harness.figure(np.array([median_ms]))
    finally:
        process.terminate()
        process.wait()
    harness.save(settings, figures)


if __name__ == "__main__":
    main()

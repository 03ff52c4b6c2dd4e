"""Measure what a network of many operations takes: reading it, finding its cuts, planning once it is measured.

    python benchmarks/large_networks.py

Residual chains of 2,000 and 19,980 operations are built in memory, read, measured once, and planned: from graph and
profile to the tables that `coinfer plan` prints. Each size has a process of its own, whose largest memory counts, the
measuring included. Times are processor times of one thread, so that other work on the machine does not count. Writes
benchmarks/results/large_networks.json.
"""

import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import harness
import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper
from rich.console import Console

from coinfer.cli.reports.plan_tables import print_plan
from coinfer.graph.onnx.load import from_proto
from coinfer.options.compile import compile_options
from coinfer.profile.measure import Engine, measure
from coinfer.profile.payloads import Codec
from coinfer.profile.samples import random_samples
from coinfer.profile.table import ProfileTable
from coinfer.runtime.device.objective import Objective
from coinfer.runtime.device.planning.preview import Preview
from coinfer.units import MEGA, MIB, WIRE_BITS

BLOCKS = (667, 6660)
BARS = {667: {"read": 5.0, "memory": 1024.0}, 6660: {"read": 30.0, "memory": 3072.0}}
PLAN_S = 1.0
WIDTH = 16


def chain(blocks: int) -> ModelProto:
    """Return h + tanh(h w), so many times."""
    nodes = []
    for i in range(blocks):
        nodes.append(helper.make_node("MatMul", [f"h{i}", "w"], [f"a{i}"]))
        nodes.append(helper.make_node("Tanh", [f"a{i}"], [f"b{i}"]))
        nodes.append(helper.make_node("Add", [f"h{i}", f"b{i}"], [f"h{i + 1}"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", WIDTH]) for name in ("h0", f"h{blocks}")]
    weight = numpy_helper.from_array(np.eye(WIDTH, dtype=np.float32), "w")
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def took_s(call: Callable[[], object]) -> float:
    began_s = time.thread_time()
    call()
    return time.thread_time() - began_s


def play(blocks: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each round, and the largest memory of this process in MiB."""
    proto, codec = chain(blocks), Codec(lambda x: x.tobytes(), lambda data: np.frombuffer(data, np.float32))
    graph = from_proto(proto, "chain")
    codecs = dict.fromkeys(WIRE_BITS, codec)
    table = measure(graph, random_samples(graph), codecs, engine=Engine(clock=time.thread_time), repeats=3)
    found: dict[str, list[float]] = {"read": [], "cuts": [], "plan": []}
    for _ in range(rounds):
        found["read"].append(took_s(lambda: from_proto(proto, "chain")))
        fresh = from_proto(proto, "chain")
        found["cuts"].append(took_s(fresh.useful_cuts))
        found["plan"].append(took_s(partial(plan, fresh, table)))
    return {**found, "memory": [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB]}


def plan(graph, table: ProfileTable) -> None:
    preview = Preview(compile_options(graph, table), Objective(), math.inf)
    print_plan(Console(file=open(os.devnull, "w")), graph, preview, table, wait_s=0.0, uplink_bps=8 * MEGA)  # noqa: SIM115


def main() -> None:
    parser = harness.parser(__doc__, "large_networks")
    parser.add_argument("--rounds", type=int, default=5, help="rounds to measure")
    parser.add_argument("--only", type=int, help="measure this number of blocks here, and print it as JSON")
    settings = parser.parse_args()
    rounds = 1 if settings.quick else settings.rounds
    if settings.only:
        print(json.dumps(play(settings.only, rounds)))
        return
    figures = {}
    for blocks in (30,) if settings.quick else BLOCKS:
        command = [sys.executable, __file__, "--only", str(blocks), "--rounds", str(rounds)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        name, bars = f"{3 * blocks:,} operations", BARS.get(blocks, {})
        figures[f"{name}: reading, s"] = harness.figure(found["read"], at_most=bars.get("read"))
        figures[f"{name}: cuts, s"] = harness.figure(found["cuts"])
        figures[f"{name}: plan once measured, s"] = harness.figure(found["plan"], at_most=PLAN_S)
        figures[f"{name}: memory, MiB"] = harness.figure(found["memory"], at_most=bars.get("memory"))
    harness.save(settings, figures)


if __name__ == "__main__":
    main()

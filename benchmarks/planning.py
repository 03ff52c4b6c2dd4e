"""Measure one decision of the device, from its estimates of links and servers to a route.

    python benchmarks/planning.py

`Device.plan` of ResNet-50 and GoogLeNet with 1, 3 and 16 servers in memory reads the estimates, predicts the latency of
every option on every server, takes the least and names the route. A round is many decisions; the figure is their mean
time. How many decisions the hull makes in one call is in benchmarks/partition.py. Writes
benchmarks/results/planning.json.
"""

from collections.abc import Callable
from contextlib import ExitStack

import harness

from coinfer.graph.ir import ModelGraph
from coinfer.graph.open_model import open_model
from coinfer.options.compile import compile_options
from coinfer.options.prune import SPEED_RATIOS, prune
from coinfer.options.table import Options
from coinfer.runtime.device.device import Device
from coinfer.runtime.profiling import profile_for
from coinfer.runtime.protocol.messages import InferReply, InferRequest, LoadReport
from coinfer.runtime.transport.base import InMemoryTransport
from coinfer.units import MILLI

BAR_MS = 0.2
MODELS = ("resnet50", "googlenet")
SERVERS = (1, 3, 16)
DECISIONS = 200
"""Decisions in a round."""


def answer(request: InferRequest) -> InferReply:
    """Reply as an idle server that takes 20 ms for anything."""
    return InferReply(request.model, (), server_s=20 * MILLI, load=LoadReport(0.0, 0, 8))


def device_with(graph: ModelGraph, options: Options, servers: int) -> Device:
    """Return a device with a number of servers."""
    addresses = [f"127.0.0.1:{port}" for port in range(1, servers + 1)]
    return Device(
        graph, servers=addresses, options=options, transport=InMemoryTransport(dict.fromkeys(addresses, answer))
    )


def decisions(device: Device) -> Callable[[], object]:
    return lambda: [device.plan() for _ in range(DECISIONS)]


def main() -> None:
    parser = harness.parser(__doc__, "planning")
    parser.add_argument("--rounds", type=int, default=30, help="rounds to measure")
    settings = parser.parse_args()
    models, count = (["nin"], 3) if settings.quick else (MODELS, settings.rounds)
    calls, options_left = dict[str, Callable[[], object]](), dict[str, int]()
    with ExitStack() as stack:
        for model in models:
            graph = open_model(model)
            options = prune(compile_options(graph, profile_for(graph)), speed_ratios=SPEED_RATIOS)
            options_left[model] = len(options.bits)
            for servers in SERVERS:
                device = stack.enter_context(device_with(graph, options, servers))
                calls[f"{model}, {servers} servers: decision, ms"] = decisions(device)
        took_s = harness.take_turns(calls, count, "planning")
    figures = {name: harness.figure(spent / DECISIONS / MILLI, at_most=BAR_MS) for name, spent in took_s.items()}
    harness.save(settings, figures, options=options_left)


if __name__ == "__main__":
    main()

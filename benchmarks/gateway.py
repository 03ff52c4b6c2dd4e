"""Measure what a gateway adds to `Device.infer` in process, beside a bare gRPC echo of the same request.

    python benchmarks/gateway.py

The gateway (with its device) and the echo are processes of their own, and calls of both alternate. What the gateway
adds is the time of a call without `latency_s` of its reply, the time of `Device.infer` in that call. The goal is 1 ms
for a small request on an idle machine of two cores, where the echo of one takes 0.5 ms. So the bar is twice the echo of
the same round, which other work on the machine slows as well. Writes benchmarks/results/gateway.json.
"""

import grpc
import harness
import numpy as np
from tensors import BARE, start

from coinfer.graph.open_model import open_model
from coinfer.profile.samples import random_samples
from coinfer.runtime.protocol import protobuf
from coinfer.runtime.protocol.messages import InferRequest, from_array
from coinfer.runtime.protocol.protobuf_types import INFER_REPLY
from coinfer.runtime.transport.grpc_transport import SERVICE, client_options
from coinfer.units import MILLI

MODELS = ("alexnet-cifar", "resnet50")
BAR = 2.0
GATEWAY = """
from coinfer.runtime.gateway.server import GatewaySettings, run_gateway
run_gateway(GatewaySettings({models}, grpc_port=0, http_port=None))
"""


def measure(model: str, gateway: str, bare: str, count: int) -> dict[str, harness.Figure]:
    """Return what the gateway adds to a network's time, and the echo beside it."""
    item = np.asarray(next(iter(random_samples(open_model(model))[0].values())))
    message = protobuf.request_bytes(InferRequest(model, (from_array("input", item),)))
    channels = [grpc.insecure_channel(address, client_options(patience_s=60.0)) for address in (gateway, bare)]
    ask, echo = (
        c.unary_unary(path) for c, path in zip(channels, (f"/{SERVICE}/ModelInfer", "/bare/echo"), strict=True)
    )
    replies: list[bytes] = []
    calls = {"gateway": lambda: replies.append(ask(message)), "echo": lambda: echo(message)}
    took_s = harness.take_turns(calls, count, model)
    device_s = [INFER_REPLY.FromString(reply).parameters["latency_s"].double_param for reply in replies[-count:]]
    for channel in channels:
        channel.close()
    added_s = took_s["gateway"] - np.array(device_s)
    return {
        f"{model}: Device.infer, ms": harness.figure(np.array(device_s) / MILLI),
        f"{model}: gateway adds, ms": harness.figure(added_s / MILLI),
        f"{model}: echo of {len(message):,} bytes, ms": harness.figure(took_s["echo"] / MILLI),
        f"{model}: gateway adds over echo": harness.figure(added_s / took_s["echo"], at_most=BAR),
    }


def main() -> None:
    parser = harness.parser(__doc__, "gateway")
    parser.add_argument("--models", nargs="+", default=MODELS, help="ONNX files or zoo networks with an input `input`")
    parser.add_argument("--rounds", type=int, default=400, help="rounds to measure")
    settings = parser.parse_args()
    models = ("alexnet-cifar",) if settings.quick else tuple(settings.models)
    servers = [start(GATEWAY.format(models=models)), start(BARE)]
    figures = dict[str, harness.Figure]()
    try:
        for model in models:
            figures |= measure(model, servers[0][1], servers[1][1], 5 if settings.quick else settings.rounds)
    finally:
        for process, _ in servers:
            process.terminate()
            process.wait()
    harness.save(settings, figures)


if __name__ == "__main__":
    main()

"""Answer pictures from a weak device, with edge servers where that is faster.

coinfer edge resnet50 --grpc-port 8001 &
python examples/device.py resnet50 127.0.0.1:8001
"""

import sys

import coinfer
from coinfer.runtime.images import load_images

model, *servers = sys.argv[1:] or ["alexnet-cifar"]

with coinfer.Device(model=model, servers=servers, deadline_s=0.5) as device:
    for name, picture in load_images():
        result = device.infer(picture)
        times = result.outcome
        print(
            f"{name}: class {result.output.argmax()} from {result.executed_on} in {times.latency_s * 1e3:.0f} ms"
            f" (device {times.device_s * 1e3:.0f}, upload {times.upload_s * 1e3:.0f}, server {times.server_s * 1e3:.0f})"
        )

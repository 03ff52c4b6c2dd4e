"""Answer pictures from a weak device, with edge servers if they are faster.

Without arguments the device answers alone, with AlexNet.

coinfer edge resnet50 --grpc-port 8001 &
python examples/device.py resnet50 127.0.0.1:8001
"""

import sys

import coinfer

model, *servers = sys.argv[1:] or ["alexnet-cifar"]

with coinfer.Device(model=model, servers=servers, deadline_s=0.5) as device:
    for name, picture in coinfer.load_images():
        result = device.infer(picture)
        device_ms, upload_ms, queue_ms, server_ms, download_ms, total_ms = (1e3 * s for s in result.outcome[:6])
        print(
            f"{name}: class {result.output.argmax()} from {result.executed_on} in {total_ms:.0f} ms"
            f" (device {device_ms:.0f}, upload {upload_ms:.0f}, server {server_ms:.0f})"
        )

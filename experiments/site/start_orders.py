"""Does the order of start matter? Controller, edge server and device in all six orders, with random delays.

    python experiments/site/start_orders.py [--rounds 10] [--delay-s 3]

The three are started one after the other, at random moments; the site has converged once the controller has both nodes
and a request of the device is answered by the edge server. What counts is the time from when the last of the three said
that it was ready: how long a process takes to start is the machine's affair, and is told beside it. The record goes to
results/NAME.json.
"""

import argparse
import itertools
import json
import random
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from nodes import Node, controller_node, edge_node, there, wait_until
from worth_it import RESULTS, write

from coinfer.runtime.device.device import Device
from coinfer.runtime.images import load_images
from coinfer.site.operator import Operator

MODEL = "resnet32"
DEVICE_SLOWDOWN = 100.0
"""The device answers by itself only if it must."""
BAR_S = 10.0
PARTS = ("controller", "edge", "device")


class OneDevice:
    """A device of this process, with the methods of a `Node` that are needed here."""

    def __init__(self, stack: ExitStack, controller: str):
        self._stack, self._controller = stack, controller
        self.device: Device | None = None

    def launch(self) -> None:
        """Start it, and do not wait."""
        self._thread = threading.Thread(target=self._open)
        self._thread.start()

    def wait_ready(self) -> None:
        """Wait until it takes requests."""
        self._thread.join()

    def _open(self) -> None:
        device = Device(MODEL, controller=self._controller, name="camera", slowdown=DEVICE_SLOWDOWN, hedge=False)
        self.device = self._stack.enter_context(device)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def converge(order: tuple[str, ...], delay_s: float) -> dict[str, float]:
    """Start a site in an order, and return the seconds until everybody knows everybody."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coinfer-order-")))
        controller = controller_node(home)
        controller.address = f"127.0.0.1:{free_port()}"
        edge = edge_node("edge-1", [MODEL], 1.0, controller.address, home)
        device = OneDevice(stack, controller.address)
        parts: dict[str, Node | OneDevice] = dict(zip(PARTS, (controller, edge, device), strict=True))
        ready_s: dict[str, float] = {}
        waits = []
        for node in (controller, edge):
            stack.callback(node.stop)
        for name in order:
            time.sleep(random.uniform(0.0, delay_s))
            last_s = time.monotonic()
            parts[name].launch()
            waits.append(threading.Thread(target=lambda name=name: _note(name, parts[name].wait_ready, ready_s)))
            waits[-1].start()
        for wait in waits:
            wait.join()
        operator = stack.enter_context(Operator(controller.address, None, False))
        wait_until(lambda: there(operator, "edge") and there(operator, "device"), "all have joined")
        assert device.device is not None, "the device did not start"
        picture = next(iter(load_images()))[1]
        wait_until(lambda: device.device.infer(picture).executed_on == edge.address, "the edge server answers")
        now_s = time.monotonic()
        return {"converged_s": round(now_s - max(ready_s.values()), 3), "from_launch_s": round(now_s - last_s, 3)}


def _note(name: str, wait: Callable[[], None], ready_s: dict[str, float]) -> None:
    wait()
    ready_s[name] = time.monotonic()


def main() -> None:
    """Try all orders, round after round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--delay-s", type=float, default=3.0, help="longest time from one start to the next")
    parser.add_argument("--output", type=Path, default=RESULTS / "start_orders.json")
    parsed = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {}
    for number in range(parsed.rounds):
        for order in itertools.permutations(PARTS):
            one = converge(order, parsed.delay_s)
            found.setdefault(", ".join(order), []).append(one)
            print(number, *order, one, flush=True)
        summary = summarise(found)
        write(parsed.output, parsed, summary=summary, orders=found)
    print(json.dumps(summary, indent=1))


def summarise(found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return the slowest of all, and how many reached the bar."""
    all_s = [one["converged_s"] for own in found.values() for one in own]
    within = sum(one <= BAR_S for one in all_s)
    return {
        "median_s": float(np.median(all_s)),
        "slowest_s": max(all_s),
        f"within {BAR_S:g} s": f"{within} of {len(all_s)}",
    }


if __name__ == "__main__":
    main()

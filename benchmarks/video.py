"""Watch a video of 15 frames a second over links that break: latency of each frame, frames skipped, how far behind.

    python benchmarks/video.py

The edge server is a process of its own; the link to it is shaped (good, slow, broken, in turns), and the frames are the
shipped photographs. Device and server are emulated slower than this machine. The same video is watched over a link
that stays good, over one that breaks, by the device alone, and over the breaking link without the planner: always the
server, and no help of the device. An answer is in time if it comes before the second frame after its own: then it is at
most one frame behind. Writes benchmarks/results/video.json.
"""

import argparse
import os
from collections.abc import Iterator
from typing import Any

import harness
import numpy as np

from coinfer.demo.cluster import edges
from coinfer.graph.open_model import open_model
from coinfer.profile.table import ProfileTable
from coinfer.runtime.clock import WallClock
from coinfer.runtime.device.device import Device
from coinfer.runtime.emulation.links import Link
from coinfer.runtime.images import load_images
from coinfer.runtime.profiling import profile_for
from coinfer.traces import Trace
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation, Policy
from coinfer.units import BITS_PER_BYTE, MILLI
from coinfer.video.sources import Frame, Source
from coinfer.video.watch import FRAMES_OF_DEADLINE, Summary, WatchedFrame, Watcher

FPS = 15.0
GOOD_BPS = 10e6
BREAKS = ((3.0, GOOD_BPS), (1.5, 0.3e6), (2.0, 0.0), (2.0, GOOD_BPS), (0.5, 0.0))
"""Seconds and rate of each stretch; they repeat."""
EDGE_SLOWDOWN = 10.0


def breaking() -> Trace:
    """Return the link that breaks."""
    durations, rates = np.array(BREAKS).T
    step_s = 0.5
    return Trace(np.arange(int(durations.sum() / step_s)) * step_s, np.repeat(rates, (durations / step_s).astype(int)))


def clip(seconds: float) -> Source:
    """Return a video of the shipped photographs, each for half a second."""
    photos = [picture for _, picture in load_images()]

    def frames() -> Iterator[Frame]:
        for i in range(int(seconds * FPS)):
            yield Frame(i / FPS, lambda i=i: photos[int(i / FPS * 2) % len(photos)])

    return Source("photographs", FPS, False, frames())


def always(server: int) -> Policy:
    """Return a policy that sends the picture to a server, or (`DEVICE`) sends nothing."""

    def decide(seen: OffloadObservation) -> OffloadDecision:
        option = len(seen.option_upload_bits[0]) - 1 if server == DEVICE else int(np.argmin(seen.option_device_s[0]))
        return OffloadDecision(np.array([option]), np.array([server]))

    return decide


def watch(
    settings: argparse.Namespace, table: ProfileTable, address: str, trace: Trace, policy: Policy | None, hedge: bool
) -> dict[str, Any]:
    """Return what became of the frames of the video."""
    links = {address: Link(trace, WallClock())}
    kept: list[WatchedFrame] = []
    more: dict[str, Any] = {"slowdown": settings.slowdown, "profile": table, "hedge": hedge, "refuse_late": True}
    with Device(settings.model, servers=[address], links=links, policy=policy, **more) as device:
        source = clip(2.0 if settings.quick else settings.seconds)
        watcher = Watcher(device, source, kept.append, deadline_s=FRAMES_OF_DEADLINE / FPS)
        return figures(watcher.run())


def figures(summary: Summary) -> dict[str, Any]:
    """Return a summary as plain numbers."""
    answered = max(summary.answered, 1)
    return {
        "frames": summary.seen,
        "answered": summary.answered,
        "skipped_share": round(summary.skipped / summary.seen, 4),
        "skipped_for_newer": summary.replaced,
        "skipped_as_late": summary.late,
        "in_time_of_answered": round(summary.in_time / answered, 4),
        "most_behind": max(summary.behind, default=0),
        "behind": {str(count): number for count, number in sorted(summary.behind.items())},
        "latency_ms": {f"p{share:g}": round(summary.quantile_s(share / 100) / MILLI, 1) for share in (50, 95, 99, 100)},
        "by_device": round(summary.nodes["device"] / answered, 4),
        "asked_in_vain": summary.fallbacks,
        "sent_mb": round(summary.sent_bits / BITS_PER_BYTE / 1e6, 3),
    }


def main() -> None:
    parser = harness.parser(__doc__, "video")
    parser.add_argument("--model", default="alexnet-cifar", help="ONNX file or zoo network that takes pictures")
    parser.add_argument("--slowdown", type=float, default=60.0, help="of the device")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each video")
    settings = parser.parse_args()
    table, load_before = profile_for(open_model(settings.model)), os.getloadavg()[0]
    found: dict[str, Any] = {}
    with edges(settings.model, (EDGE_SLOWDOWN,)) as (edge,):
        cases = {
            "planner, good link": (Trace.constant(GOOD_BPS), None, True),
            "planner, link that breaks": (breaking(), None, True),
            "device only": (breaking(), always(DEVICE), True),
            "server only, link that breaks": (breaking(), always(0), False),
        }
        for name, (trace, policy, hedge) in cases.items():
            if settings.quick and name != "planner, link that breaks":
                continue
            found[name] = watch(settings, table, edge.address, trace, policy, hedge)
            print(f"{name}: {found[name]}", flush=True)
    harness.write(settings, load_average=[round(load_before, 2), round(os.getloadavg()[0], 2)], watched=found)


if __name__ == "__main__":
    main()

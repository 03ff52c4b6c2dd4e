"""The regret of the planner on real processes: a device and edge servers, links that follow traces.

First every choice is measured in rounds in which they take turns, on idle servers and fast links; then the planner
answers requests, closed loop. What each choice would have taken at each request follows from the link's trace and the
measured times, by the same formulas as the planner's predictions.
"""

import time
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

import harness
import numpy as np

from coinfer.demo.cluster import edges
from coinfer.physics import latency
from coinfer.runtime.clock import WallClock
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.result import Result
from coinfer.runtime.emulation.links import Link
from coinfer.runtime.images import readable_images
from coinfer.traces import Trace
from coinfer.types import DEVICE, OffloadDecision

ROUNDS, REST_S = 5, 0.05
FAST_BPS = 1e9
FIRST_USES = 2
"""A choice counts as cold the first times that it is used."""


class Times(NamedTuple):
    """Measured times of each choice, medians over rounds."""

    device_s: np.ndarray
    """[O] until the upload begins."""
    service_s: np.ndarray
    """[O, N] of a server, with what the way there takes beside the link."""
    upload_bits: np.ndarray
    """[O] of messages there and back."""


def measured(
    model: str, family: str, traces: Sequence[Trace], seconds: float, slowdown: float, server_slowdowns: Sequence[float]
) -> dict[str, Any]:
    """Return the figures of one network on one set of links."""
    pictures = [picture for _, picture in readable_images(None)[0]]
    with edges(model, server_slowdowns) as running:
        addresses = [edge.address for edge in running]
        links = {address: Link(Trace.constant(FAST_BPS), WallClock()) for address in addresses}
        with Device(model, servers=addresses, slowdown=slowdown, links=links) as device:
            times = measure_choices(device, pictures)
            for address, trace in zip(addresses, traces, strict=True):
                links[address] = Link(trace, WallClock())
            time.sleep(1.0)
            found = answer(device, pictures, times, [links[address] for address in addresses], seconds)
    figures = {"model": model, "family": family} | found
    harness.CONSOLE.print(f"real, {model}, {family}: {found}", soft_wrap=True)
    return figures


def measure_choices(device: Device, pictures: Sequence[np.ndarray]) -> Times:
    """Measure every option on every server in rounds, one after the other."""
    bits, count = device.options.upload_bits, len(device.servers)
    device_s: dict[int, list[float]] = {}
    service_s: dict[tuple[int, int], list[float]] = {}
    for number in harness.rounds(ROUNDS, "fixed choices"):
        for option in range(len(bits)):
            for server in range(count) if bits[option] else (DEVICE,):
                decision = OffloadDecision(np.array([option]), np.array([server]))
                picture = pictures[number % len(pictures)]
                result = device.infer(picture, policy=lambda _, decision=decision: decision, hedge=False)
                outcome = result.outcome
                device_s.setdefault(option, []).append(outcome.device_s)
                beside_s = outcome.latency_s - outcome.device_s - bits[option] / FAST_BPS
                service_s.setdefault((option, server), []).append(max(beside_s, 0.0))
    service = np.zeros((len(bits), count))
    for (option, server), values in service_s.items():
        if server != DEVICE:
            service[option, server] = median(values)
    return Times(np.array([median(device_s[option]) for option in range(len(bits))]), service, bits)


def true_latency_s(times: Times, links: Sequence[Link], now_s: float) -> np.ndarray:
    """Return [O, N + 1] what each choice takes from now on idle links and servers; the last column is the device."""
    latency_s = np.full((len(times.device_s), len(links) + 1), np.inf)
    for option, bits in enumerate(times.upload_bits):
        if not bits:
            latency_s[option, -1] = times.device_s[option]
            continue
        for server, link in enumerate(links):
            at_s = now_s + times.device_s[option]
            ready_s = latency.ready_s(times.device_s[option], 0.0, link.arrival_s(bits, at_s) - at_s)
            latency_s[option, server] = latency.end_s(ready_s, 0.0, times.service_s[option, server])
    return latency_s


def answer(
    device: Device, pictures: Sequence[np.ndarray], times: Times, links: Sequence[Link], seconds: float
) -> dict[str, Any]:
    """Let the planner answer requests one after the other, and compare each with what every choice would take."""
    until_s, rows, used = time.monotonic() + seconds, [], dict[tuple[int, int], int]()
    while time.monotonic() < until_s:
        true_s = true_latency_s(times, links, links[0].clock.now_s())
        result = device.infer(pictures[len(rows) % len(pictures)])
        place = _place(device, result)
        used[place] = used.get(place, 0) + 1
        rows.append((result, true_s, place, used[place] <= FIRST_USES))
        time.sleep(REST_S)
    return _figures(rows)


def _place(device: Device, result: Result) -> tuple[int, int]:
    """Return option and column of a result's route."""
    first, last = result.route.hops[0], result.route.hops[-1]
    options, sends = device.options, len(result.route.hops) > 1
    option = next(
        i
        for i, (cut, bits) in enumerate(zip(options.cuts, options.bits, strict=True))
        if cut == first.cut and (not sends or bits == first.bits)
    )
    return option, device.servers.index(last.node) if sends else len(device.servers)


def _figures(rows: Sequence[tuple[Result, np.ndarray, tuple[int, int], bool]]) -> dict[str, Any]:
    latency_s = np.array([result.outcome.latency_s for result, *_ in rows])
    predicted_s = np.array([result.predicted_s for result, *_ in rows])
    best_s = np.array([true_s.min() for _, true_s, *_ in rows])
    chosen_s = np.minimum([true_s[place] for _, true_s, place, _ in rows], 10.0)
    fixed_s = np.minimum([true_s for _, true_s, *_ in rows], 10.0).mean(axis=0).min()
    beside_s, cold = latency_s - chosen_s, np.array([is_cold for *_, is_cold in rows])
    warm_s = float(np.median(beside_s[~cold])) if (~cold).any() else 0.0
    best = float(best_s.mean())
    return {
        "requests": len(rows),
        "planner_s": round(float(latency_s.mean()), 4),
        "clairvoyant_s": round(best, 4),
        "regret": round(float(latency_s.mean()) / best - 1, 4),
        "over_best_fixed": round(float(latency_s.mean()) / float(fixed_s) - 1, 4),
        "prediction_error": round(float(np.median(np.abs(predicted_s / latency_s - 1))), 4),
        "lost_to": {
            "decisions": round(float((chosen_s - best_s).mean()) / best, 4),
            "cold pieces": round(float(((beside_s - warm_s) * cold).mean()) / best, 4),
            "jitter": round(float((beside_s * ~cold).mean()) / best, 4),
        },
        "hedged": round(float(np.mean([bool(result.fallback) for result, *_ in rows])), 4),
    }

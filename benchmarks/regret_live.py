"""The regret of the planner on real processes: a device and edge servers, links that follow traces.

The planner answers requests, closed loop; after each, one of the fixed choices is measured on a second device with fast
links, in turn. So both see the same machine, however busy it is. What each choice would have taken at each request
follows from the link's trace and the medians of the measured times, by the formulas of the planner's predictions.
"""

import time
from collections.abc import Mapping, Sequence
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
from coinfer.types import DEVICE, OffloadDecision, Outcome

FAST_BPS, SETTLE_S = 1e9, 1.0
FIRST_USES = 2
"""A choice counts as cold the first times that it is used."""
LONGEST_S = 10.0
"""What a choice may cost at most: on a dead link it would take for ever."""
Choice = tuple[int, int]
"""Option, and server or `DEVICE`."""


class Row(NamedTuple):
    """A request that the planner decided about."""

    at_s: float
    """When it was made."""
    result: Result
    choice: Choice
    is_cold: bool


class Times(NamedTuple):
    """Measured times of each choice, medians."""

    device_s: np.ndarray
    """[O] until the upload begins."""
    service_s: np.ndarray
    """[O, N] of a server, with what the way there takes beside the link."""
    upload_bits: np.ndarray
    """[O] of messages there and back."""


def measured(
    model: str, family: str, traces: Sequence[Trace], seconds: float, slowdown: float, server_slowdowns: Sequence[float]
) -> dict[str, Any]:
    """Return the figures of one network on one set of links; each fixed choice is measured at least once."""
    pictures = [picture for _, picture in readable_images(None)[0]]
    with edges(model, server_slowdowns) as running:
        servers = [edge.address for edge in running]
        fast = {server: Link(Trace.constant(FAST_BPS), WallClock()) for server in servers}
        links = dict(fast)
        with (
            Device(model, servers=servers, slowdown=slowdown, links=fast) as beside,
            Device(model, servers=servers, slowdown=slowdown, links=links) as device,
        ):
            for server, trace in zip(servers, traces, strict=True):
                links[server] = Link(trace, WallClock())
            unused = [Link(trace, WallClock()) for trace in traces]
            time.sleep(SETTLE_S)
            outcomes, rows = play(device, beside, pictures, seconds)
    times = medians(outcomes, device.options.upload_bits, len(servers))
    found = figures(rows, [true_latency_s(times, unused, at_s) for at_s, *_ in rows])
    harness.CONSOLE.print(f"real, {model}, {family}: {found}", soft_wrap=True)
    return {"model": model, "family": family} | found


def play(
    device: Device, beside: Device, pictures: Sequence[np.ndarray], seconds: float
) -> tuple[dict[Choice, list[Outcome]], list[Row]]:
    """Return the outcomes of every fixed choice, and the planner's requests."""
    bits, count = device.options.upload_bits, len(device.servers)
    choices = [(o, n) for o in range(len(bits)) for n in (range(count) if bits[o] else (DEVICE,))]
    outcomes: dict[Choice, list[Outcome]] = {choice: [] for choice in choices}
    rows, used, clock, began_s = list[Row](), dict[Choice, int](), WallClock(), time.monotonic()
    while time.monotonic() < began_s + seconds or len(rows) < len(choices):
        at_s, picture = clock.now_s(), pictures[len(rows) % len(pictures)]
        result = device.infer(picture)
        choice = choice_of(device, result)
        used[choice] = used.get(choice, 0) + 1
        fixed = choices[len(rows) % len(choices)]
        rows.append(Row(at_s, result, choice, used[choice] <= FIRST_USES))
        decision = OffloadDecision(np.array([fixed[0]]), np.array([fixed[1]]))
        outcomes[fixed].append(beside.infer(picture, policy=lambda _, chosen=decision: chosen, hedge=False).outcome)
    return outcomes, rows


def choice_of(device: Device, result: Result) -> Choice:
    """Return what the planner chose."""
    first, last = result.route.hops[0], result.route.hops[-1]
    options, sends = device.options, len(result.route.hops) > 1
    option = next(
        i
        for i, (cut, bits) in enumerate(zip(options.cuts, options.bits, strict=True))
        if cut == first.cut and (not sends or bits == first.bits)
    )
    return option, device.servers.index(last.node) if sends else DEVICE


def medians(outcomes: Mapping[Choice, Sequence[Outcome]], upload_bits: np.ndarray, servers: int) -> Times:
    """Return what each choice takes."""
    device_s, service_s = np.zeros(len(upload_bits)), np.zeros((len(upload_bits), servers))
    for option, bits in enumerate(upload_bits):
        of_option = [one for choice, ones in outcomes.items() if choice[0] == option for one in ones]
        device_s[option] = median(one.device_s for one in of_option)
        for server in range(servers) if bits else ():
            beside_s = [one.latency_s - one.device_s - bits / FAST_BPS for one in outcomes[option, server]]
            service_s[option, server] = max(median(beside_s), 0.0)
    return Times(device_s, service_s, upload_bits)


def true_latency_s(times: Times, links: Sequence[Link], now_s: float) -> np.ndarray:
    """Return [O, N + 1] what each choice takes from then on idle links and servers; the last column is the device."""
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


def figures(rows: Sequence[Row], true_s: Sequence[np.ndarray]) -> dict[str, Any]:
    """Return how the planner did, beside what every choice would have taken at each of its requests."""
    latency_s = np.array([row.result.outcome.latency_s for row in rows])
    predicted_s = np.array([row.result.predicted_s for row in rows])
    best_s = np.array([one.min() for one in true_s])
    chosen_s = np.minimum(
        [one[row.choice] for row, one in zip(rows, true_s, strict=True)], LONGEST_S
    )  # -1 is the device
    fixed_s = np.minimum(true_s, LONGEST_S).mean(axis=0).min()
    beside_s, cold = latency_s - chosen_s, np.array([row.is_cold for row in rows])
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
        "hedged": round(float(np.mean([bool(row.result.fallback) for row in rows])), 4),
    }

"""Two rules by which a device predicts latency, side by side on real nodes.

    python experiments/real-nodes/planners.py [--rates 1.5,3] [--rounds 6]

"overlap" is the planner's rule: the link's wait, then the upload, and then the server as soon as the request is there
and what came before it is done (`coinfer.physics.latency`). "sum" is what the planner did before: it added the server's
whole backlog to the upload, as if the queue stood still while the request is on its way. Everything else is the same:
nodes, requests, links (see run.py), the estimates, when a reply counts as late. The rules take turns in every round,
another one first. The prediction error is that of each rule's own prediction for the requests that it decided, without
those that the device finished because a server was late or failed. Writes results/planners.json.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from run import CONCURRENT, RESULTS, Links, begin, ends, moments, rotated, site

from coinfer.evaluate.statistics import paired_difference
from coinfer.files import write_atomic
from coinfer.profile.measure import this_machine
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.planning.observation import feasible_latency_s
from coinfer.runtime.device.result import Result
from coinfer.runtime.images import load_images
from coinfer.traces import Trace
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation

Rule = Callable[[OffloadObservation], np.ndarray]
"""From an observation to the predicted latency [K, O, N + 1], the last column for what stays on the device."""


def summed_s(observation: OffloadObservation) -> np.ndarray:
    """Device, upload, the server's whole backlog, service: the rule before."""
    o, latency_s = observation, feasible_latency_s(observation)
    with np.errstate(divide="ignore"):
        upload_s = o.option_upload_bits[..., None] / o.uplink_bps[..., None, :]
    computed_s = (o.device_backlog_s[..., None] + o.option_device_s)[..., None]
    summed = computed_s + upload_s + o.server_backlog_s + o.option_server_s
    latency_s[..., :-1] = np.where(np.isfinite(latency_s[..., :-1]), summed, np.inf)
    return latency_s


RULES: dict[str, Rule] = {"overlap": feasible_latency_s, "sum": summed_s}


class Answered(NamedTuple):
    predicted_s: float
    result: Result


def ask(device: Device, picture: np.ndarray, rule: Rule) -> Answered:
    """One request that goes where the rule predicts the least latency."""
    predicted_s: list[float] = []

    def policy(observation: OffloadObservation) -> OffloadDecision:
        latency_s = rule(observation)[0]
        option, server = np.unravel_index(int(latency_s.argmin()), latency_s.shape)
        predicted_s.append(float(latency_s[option, server]))
        place = DEVICE if server == latency_s.shape[-1] - 1 else int(server)
        return OffloadDecision(np.array([option]), np.array([place]))

    result = device.infer(picture, policy=policy)
    return Answered(predicted_s[0], result)


def round_of(
    devices: Sequence[Device],
    rule: Rule,
    links: Links,
    traces: Sequence[Mapping[str, Trace]],
    parsed: argparse.Namespace,
    number: int,
) -> dict[str, Any]:
    """One rule for `--round-s` seconds."""
    pictures = [picture for _, picture in load_images()]
    begin(devices, pictures, links, traces, parsed, number)
    futures: list[Future[Answered]] = []
    with ThreadPoolExecutor(CONCURRENT) as pool:
        began_s = time.monotonic()
        for i, (at_s, which) in enumerate(moments(len(devices), parsed.rate, parsed.round_s, number)):
            time.sleep(max(began_s + at_s - time.monotonic(), 0.0))
            futures.append(pool.submit(ask, devices[which], pictures[i % len(pictures)], rule))
        answered = [future.result() for future in futures]
    return {
        "latency_s": [round(one.result.outcome.latency_s, 5) for one in answered],
        "predicted_s": [round(one.predicted_s, 5) for one in answered],
        "in_time": [bool(one.result.outcome.in_time) for one in answered],
        "on_device": [one.result.executed_on == "device" for one in answered],
        "fallback": [bool(one.result.fallback) for one in answered],
    }


def summary(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Figures of all requests of some rounds."""
    latency_s, predicted_s, in_time, on_device, fallback = (
        np.concatenate([np.asarray(one[key]) for one in rounds])
        for key in ("latency_s", "predicted_s", "in_time", "on_device", "fallback")
    )
    offloaded = ~fallback & ~on_device
    error = predicted_s[offloaded] / latency_s[offloaded] - 1
    return {
        "requests": float(len(latency_s)),
        "mean_s": float(latency_s.mean()),
        "p95_s": float(np.quantile(latency_s, 0.95)),
        "in_time": float(in_time.mean()),
        "on_device": float(on_device.mean()),
        "fallbacks": float(fallback.sum()),
        "offloaded": float(offloaded.sum()),
        "error": float(np.median(np.abs(error))),
        "mean_error": float(np.abs(error).mean()),
        "bias": float(np.median(error)),
    }


def compared(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[float]]:
    """Of "overlap" less "sum" by round: mean, and the 95 % interval of the mean (Student)."""
    told = {}
    for key in ("mean_s", "p95_s", "in_time", "error"):
        own, other = (np.array([summary([one])[key] for one in found[rule]]) for rule in ("overlap", "sum"))
        told[key] = ends(paired_difference(own, other))
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenetv2")
    parser.add_argument("--rates", default="1.5,3", help="requests per second of each device, one after the other")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--round-s", type=float, default=15.0)
    parser.add_argument("--deadline-ms", type=float, default=250.0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.set_defaults(device_slowdowns=(40.0, 34.0, 28.0, 24.0, 20.0, 16.0), edge_slowdowns=(12.0, 6.0, 4.0))
    parser.set_defaults(link_scale=1.0)
    parsed = parser.parse_args()
    parsed.output.mkdir(parents=True, exist_ok=True)
    written: dict[str, Any] = {"machine": this_machine().model_dump(), "rates": {}}
    with ExitStack() as stack:
        devices, links, traces = site(stack, parsed)
        for rate in map(float, parsed.rates.split(",")):
            parsed.rate = rate
            found: dict[str, list[dict[str, Any]]] = {name: [] for name in RULES}
            for number in range(parsed.rounds):
                for name in rotated(list(RULES), number):
                    found[name].append(round_of(devices, RULES[name], links, traces, parsed, number))
                    Console().print(rate, number, name, summary(found[name][-1:]))
                written["rates"][f"{rate:g}"] = {
                    "rules": {name: summary(rounds) for name, rounds in found.items()},
                    "overlap less sum": compared(found) if number else {},
                    "rounds": found,
                }
                write_atomic(parsed.output / "planners.json", json.dumps(written) + "\n")


if __name__ == "__main__":
    main()

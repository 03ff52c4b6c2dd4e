"""The exported GRLE policy on real nodes: it chooses server, cut and exit beside accuracy first and the planner.

    python experiments/grle/real_nodes.py [--policy FILE] [--rounds 6] [--requests 8]
    python experiments/grle/real_nodes.py --model runs/vgg/vgg16-cifar-exits.onnx --edge-slowdowns 20 33 \\
        --name real-nodes-vgg16

Edge servers are processes on loopback; devices are processes of their own, too, each with its links to the servers. All
processors are slowed by sleeping, and all times are twenty times those of scenario `grle`, so that other work on the
machine matters less: all devices ask every 4 s, with deadlines drawn from 0.6 to 1.8 s. The network is `alexnet-exits`
with three trained exits and their measured accuracies, or a file with the NAME.accuracy.json of `coinfer exits measure`
beside it: the second command takes the scenario's own network. What the devices ask at one time is decided together, as
in the paper, by GRLE or by accuracy first, one task after the other; beside them each device decides alone, by the same
two and by the product's planner. Every scheme answers the same requests over the same links, in turns. Without
`--policy` the first learner of `train.py` that trained with 14 devices at the preset's deadlines is exported, for any
number of options. The records go to results/NAME.json.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import FOLDER, MAIN, WEIGHTS, settings_of, weights_file
from together import Asking, Decider, OffloadPolicy, of_arrays

from coinfer.demo.cluster import edges
from coinfer.envs import offload
from coinfer.evaluate.statistics import interval, paired_difference
from coinfer.options.table import Triple
from coinfer.policies.heuristics.offload import sequential_accurate
from coinfer.policies.learned.export import export
from coinfer.policies.learned.imitation.candidate_policy import CandidatePolicy
from coinfer.policies.onnx import load_policy
from coinfer.profile.measure import this_machine
from coinfer.rl.algorithms.grle import critic_of
from coinfer.runtime.clock import WallClock
from coinfer.runtime.device.device import Device
from coinfer.runtime.emulation.links import Link
from coinfer.runtime.images import load_images
from coinfer.scenario.compile import fingerprint
from coinfer.traces import Trace

SCHEMES = (
    "grle",
    "accuracy first, task after task",
    "grle, each device alone",
    "accuracy first, each device alone",
    "planner (least latency)",
)
TOGETHER, PLANNER = SCHEMES[:2], SCHEMES[-1]
DEADLINE_S = (0.6, 1.8)
DEVICE_SLOWDOWN = 6000.0
RATE_BPS = (4e4, 4e5)
"""Ends of the rates of the links, even on a logarithmic scale."""


def policies_of(file: Path, options: Sequence[Triple], servers: int, tasks: int) -> dict[str, OffloadPolicy]:
    """Return GRLE and accuracy first, task after task.

    Args:
        file: of the exported policy.
        options: what a decision may choose.
        servers: number of servers.
        tasks: that are decided together.
    """
    return {
        "grle": load_policy(file).adapt(options, servers, tasks),
        "accuracy first": of_arrays(sequential_accurate()),
    }


def run_device(
    number: int, servers: list[str], policy: Path, begin: Any, plan: dict[str, Any], asks: Connection, out: Any
) -> None:
    """Answer the requests of one device, scheme after scheme; runs in a process of its own.

    Args:
        number: of the device.
        servers: `host:port`.
        policy: file of the exported policy.
        begin: barrier that all devices pass before each scheme of a round.
        plan: network, numbers of rounds and requests, and the time between two requests.
        asks: the way to what decides for all devices.
        out: queue that gets (round, scheme, latency, accuracy, in time, exit, node) of each request.
    """
    rng = np.random.default_rng(number)
    rates = np.exp(rng.uniform(*np.log(RATE_BPS), len(servers)))
    traces = [Trace(np.array([0.0, 1e6]), np.array([rate, rate])) for rate in rates]
    links = {server: Link(trace, WallClock(), burst_bits=0.0) for server, trace in zip(servers, traces, strict=True)}
    pictures = [picture for _, picture in load_images()]
    table = Path(plan["model"]).with_suffix(".accuracy.json")
    settings = {"slowdown": DEVICE_SLOWDOWN, "hedge": False, "accuracy": table if table.exists() else None}
    with Device(plan["model"], servers=servers, links=links, **settings) as device:
        alone = policies_of(policy, device.options.triples, len(servers), 1)
        asks.send(device.options.triples)
        policies: dict[str, OffloadPolicy | None] = {
            scheme: Asking(asks, scheme) if scheme in TOGETHER else alone.get(scheme.split(",")[0])
            for scheme in SCHEMES
        }
        for each in range(plan["rounds"]):
            draws = np.random.default_rng((number, each)).uniform(*DEADLINE_S, plan["requests"])
            turn = each % len(SCHEMES)
            for scheme in [*SCHEMES[turn:], *SCHEMES[:turn]]:
                begin.wait()
                began_s = time.monotonic()
                for i, deadline_s in enumerate(draws):
                    time.sleep(max(0.0, began_s + i * plan["period_s"] - time.monotonic()))
                    got = device.infer(
                        pictures[i % len(pictures)], deadline_s=float(deadline_s), policy=policies[scheme]
                    )
                    row = (float(got.outcome.latency_s), float(got.outcome.accuracy), bool(got.outcome.in_time))
                    out.put((each, scheme, *row, int(got.exit), got.executed_on))
    asks.close()
    out.put(None)


def export_trained(path: Path) -> Path:
    """Export the first learner of `train.py` in `MAIN`, without limits on devices, options and servers.

    Args:
        path: of the ONNX file.
    """
    compiled, settings = MAIN.compiled(), settings_of("grle")
    tables = offload.load(compiled.world)
    flat = torch.from_numpy(np.load(weights_file("grle", MAIN))["trained"][:1])
    net = settings.net(compiled.world, compiled.world.options)
    policy = CandidatePolicy(net, flat, critic_of(compiled), settings.learner.candidates, settings.noisy)
    example = offload.observe(tables, offload.reset(tables, torch.arange(2)))
    export(
        path,
        policy,
        example,
        scheme="grle",
        scenario=compiled.world.name,
        scenario_fingerprint=fingerprint(compiled.world),
        dynamic_axes="BKON",
    )
    return path


def main() -> None:
    """Run all devices, and keep what they measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, help="exported policy; that of train.py without it")
    parser.add_argument("--model", default="alexnet-exits", help="name or file of a network with exits")
    parser.add_argument("--devices", type=int, default=6)
    parser.add_argument("--period-s", type=float, default=4.0, help="between two requests of a device")
    parser.add_argument("--edge-slowdowns", type=float, nargs="+", default=[400.0, 700.0])
    parser.add_argument("--name", default="real-nodes", help="of the record")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--requests", type=int, default=8, help="of each device, in each round of each scheme")
    parsed = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    begin, out = context.Barrier(parsed.devices), context.Queue()
    plan = {key: getattr(parsed, key) for key in ("model", "devices", "period_s", "rounds", "requests")}
    policy = parsed.policy or export_trained(WEIGHTS / "policy.onnx")
    rows: list[tuple[Any, ...]] = []
    with edges(parsed.model, parsed.edge_slowdowns) as running:
        servers = [edge.address for edge in running]
        ends = [context.Pipe() for _ in range(parsed.devices)]
        processes = [
            context.Process(target=run_device, args=(i, servers, policy, begin, plan, theirs, out))
            for i, (_, theirs) in enumerate(ends)
        ]
        for process, (_, theirs) in zip(processes, ends, strict=True):
            process.start()
            theirs.close()
        own = [end for end, _ in ends]
        options = [end.recv() for end in own].pop()
        joint = policies_of(policy, options, len(servers), parsed.devices)
        decider = Decider(own, {scheme: joint[scheme.split(",")[0]] for scheme in TOGETHER})
        decider.start()
        for _ in range(parsed.devices):
            rows += iter(out.get, None)
        for process in processes:
            process.join()
        decider.join()
    summary = summarise(rows, parsed.rounds)
    written = {"machine": this_machine().model_dump(), "plan": plan, "summary": summary, "requests": rows}
    (FOLDER / "results" / f"{parsed.name}.json").write_text(json.dumps(written) + "\n")
    print(json.dumps(summary, indent=1))


def summarise(rows: list[tuple[Any, ...]], rounds: int) -> dict[str, Any]:
    """Return means over requests, and differences of timely accuracy to GRLE, paired by round.

    Args:
        rows: of all requests.
        rounds: number of rounds.
    """
    timely = {
        scheme: np.array([np.mean([r[3] * r[4] for r in rows if r[:2] == (each, scheme)]) for each in range(rounds)])
        for scheme in SCHEMES
    }
    found: dict[str, Any] = {}
    for scheme in SCHEMES:
        own = [row for row in rows if row[1] == scheme]
        found[scheme] = {
            "requests": len(own),
            "timely_accuracy": list(interval(timely[scheme])),
            "in_time": float(np.mean([row[4] for row in own])),
            "mean_s": float(np.mean([row[2] for row in own])),
            "exits": np.bincount([row[5] for row in own], minlength=3).tolist(),
            "on_device": float(np.mean([row[6] == "device" for row in own])),
            "grle_less_this": list(paired_difference(timely["grle"], timely[scheme])),
        }
    return found


if __name__ == "__main__":
    main()

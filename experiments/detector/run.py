"""A detector on a Raspberry Pi 4 class device at 20 Mbit/s: device only, server only, and the planner.

    python experiments/detector/run.py

Predicts the latency of the three from the profile of this machine and the catalogue of devices, and measures it: this
processor slowed to that class, an edge server as a process, and a shaped link between them. Writes results/.
"""

import argparse
import json
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from network import write
from rich.console import Console
from rich.table import Table

import coinfer
from coinfer.demo.cluster import edges
from coinfer.demo.schemes import device_only, server_only
from coinfer.profile.measure import this_machine
from coinfer.runtime.clock import WallClock
from coinfer.runtime.device.planning.message_size import with_messages
from coinfer.runtime.device.planning.observation import choice_latency_s
from coinfer.runtime.emulation.links import Link
from coinfer.traces import Trace

HERE = Path(__file__).parent
WARM_UP = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="raspberry-pi-4", help="class of the catalogue")
    parser.add_argument("--uplink-mbit-s", type=float, default=20.0)
    parser.add_argument("--requests", type=int, default=20, help="of each scheme")
    parser.add_argument("--model", default="", help="an ONNX file instead of the detector made here")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    asked = parser.parse_args()
    with TemporaryDirectory() as folder:
        path = asked.model or str(Path(folder) / "detector.onnx")
        if not asked.model:
            write(Path(path))
        graph = coinfer.open_model(path)
        table = coinfer.profile_for(graph)
        slowdown = coinfer.device_slowdown(asked.device, table)
        with edges(path, [1.0]) as (server,):
            link = Link(Trace(np.array([0.0]), np.array([asked.uplink_mbit_s * 1e6])), WallClock())
            rows = measure(graph, table, slowdown, server.address, link, asked.requests)
    found = {
        "network": graph.name,
        "work_flop": graph.work_flop,
        "device": asked.device,
        "device_slowdown": slowdown,
        "uplink_bps": asked.uplink_mbit_s * 1e6,
        "requests": asked.requests,
        "machine": this_machine().model_dump(),
        "rows": rows,
    }
    asked.output.mkdir(parents=True, exist_ok=True)
    (asked.output / f"{graph.name}.json").write_text(json.dumps(found, indent=1) + "\n")
    show(found)


def measure(graph, table, slowdown: float, address: str, link: Link, requests: int) -> list[dict]:
    """Return a row for each scheme: what it does, predicted latency, and quartiles of the measured one."""
    pictures = [picture for _, picture in coinfer.load_images()]
    rows = []
    options = with_messages(coinfer.compile_options(graph, table), graph)
    settings = {"servers": [address], "profile": table, "slowdown": slowdown, "hedge": False}
    with coinfer.Device(graph, options=options, links={address: link}, **settings) as device:
        policies = {
            "device only": device_only(device.options),
            "server only": server_only(device.options, graph.inputs),
            "planner": device.planner.policy,
        }
        for _ in range(WARM_UP):
            for policy in policies.values():
                device.infer(pictures[0], policy=policy)
        for name, policy in policies.items():
            latencies_s, predicted_s, cuts = [], [], []
            for i in range(requests):
                observation = device.observe()
                decision = policy(observation)
                predicted_s.append(choice_latency_s(observation, int(decision.option[0]), int(decision.server[0])))
                result = device.infer(pictures[i % len(pictures)], policy=policy)
                latencies_s.append(result.outcome.latency_s)
                sent = f"{' + '.join(result.route.hops[0].cut)} at {result.route.hops[0].bits} bits"
                cuts.append("all here" if result.executed_on == "device" else sent)
            low, middle, high = np.quantile(latencies_s, [0.25, 0.5, 0.75]).tolist()
            rows.append(
                {
                    "scheme": name,
                    "cut": statistics.mode(cuts),
                    "predicted_s": statistics.median(predicted_s),
                    "measured_s": middle,
                    "quartiles_s": [low, high],
                }
            )
    return rows


def show(found: dict) -> None:
    table = Table(title=f"{found['network']}, {found['device']} at {found['uplink_bps'] / 1e6:g} Mbit/s, ms")
    for heading in ("scheme", "cut", "predicted", "measured", "quartiles"):
        table.add_column(heading)
    for row in found["rows"]:
        low, high = (1e3 * value for value in row["quartiles_s"])
        times = f"{1e3 * row['predicted_s']:.1f}", f"{1e3 * row['measured_s']:.1f}", f"{low:.1f} to {high:.1f}"
        table.add_row(row["scheme"], row["cut"], *times)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

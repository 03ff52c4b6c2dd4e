"""Is it worth it? The same requests with devices that decide alone, and with a site that knows its servers.

    python experiments/site/worth_it.py [--rounds 10] [--loads 0.6 0.8 0.95 1.1] [--round-s 30] [--schemes ...]

Edge servers and the controller are processes on loopback, devices are objects of this one. All processors are slowed by
sleeping, so far that this machine's own two cores do not count; links follow the shipped traces, slowed alike. Four
schemes answer the same requests (Poisson, the same moments) on the same replay of the links, in turns within a round:
devices alone; dispatch by sequential greedy; dispatch by the learned policy; devices that decide with the site's view.
`--schemes` names others: also dispatch of cut and server, by sequential greedy. `--burst-s` lets requests come in
bursts, `--delay-s` puts a slow way between the nodes and the controller, so that what they know of each other is old.
The load is a share of what the servers can compute. The record goes to results/NAME.json after every round, and its
figure beside it.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from crowd import Crowd, compared, measures, rotated
from nodes import controller_node, decide_by, edge_node, running, there, wait_until
from proxy import Proxy

from coinfer.graph.open_model import open_model
from coinfer.profile.measure import this_machine
from coinfer.runtime.device.device import Device
from coinfer.site.operator import Operator

matplotlib.use("Agg")
RESULTS = Path(__file__).resolve().parent / "results"
ALONE = "devices alone"
GREEDY, LEARNED = "dispatch, sequential greedy", "dispatch, learned policy"
VIEW = "devices with the site's view"
CUT = "dispatch, cut and server"
SCHEMES = (ALONE, GREEDY, LEARNED, VIEW)
REST_S = 2.0


def options() -> argparse.ArgumentParser:
    """Return the options that experiments with a site share."""
    made = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--models", nargs="+", default=["mobilenetv2", "resnet50"])
    made.add_argument("--devices", type=int, default=12)
    made.add_argument("--edge-slowdowns", type=float, nargs="+", default=[8.0, 12.0, 18.0, 28.0])
    made.add_argument("--device-slowdown", type=float, default=60.0)
    made.add_argument("--link-scale", type=float, default=0.5, help="of the rates of the shipped traces")
    made.add_argument(
        "--slack", type=float, default=2.0, help="deadline, in times of the network on the slowest server"
    )
    made.add_argument("--actor-late-ms", type=float, default=200.0)
    made.add_argument("--policy", type=Path, default=Path("learned"), help="file, or name of a shipped one")
    made.add_argument("--burst-s", type=float, default=0.0, help="mean length of bursts, and of what is between them")
    made.add_argument("--rounds", type=int, default=10)
    made.add_argument("--round-s", type=float, default=30.0)
    made.add_argument("--output", type=Path, default=None, help="file of the record")
    return made


class Site:
    """The processes of a site and the devices of all schemes, until the stack is left.

    Args:
        stack: ends them.
        parsed: see `options`.
        schemes: that will be played.
        between: makes a network between the nodes and the controller of that address; None for none.
    """

    def __init__(
        self,
        stack: ExitStack,
        parsed: argparse.Namespace,
        schemes: Sequence[str] = SCHEMES,
        between: Callable[[str], Proxy] | None = None,
    ):
        self.home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coinfer-site-")))
        self.controller = controller_node(self.home)
        stack.enter_context(running(self.controller))
        self.proxy = between(self.controller.address) if between else None
        """The network between the nodes and the controller."""
        reached = self.proxy.address if self.proxy else self.controller.address
        late = ("--actor-late-ms", str(parsed.actor_late_ms), "--policy", "sequential-greedy")
        where = (reached, self.home)
        self.edges = [
            edge_node(f"edge-{n + 1}", parsed.models, slowdown, *where, *late)
            for n, slowdown in enumerate(parsed.edge_slowdowns)
        ]
        stack.enter_context(running(*self.edges))
        self.operator = stack.enter_context(Operator(self.controller.address, None, False))
        wait_until(lambda: len(there(self.operator, "edge")) == len(self.edges), "all servers have joined")
        self.operator.push(parsed.policy)
        graphs, addresses = [open_model(name) for name in parsed.models], [edge.address for edge in self.edges]
        self.crowd = Crowd(graphs, parsed.devices, addresses, parsed.device_slowdown, parsed.link_scale)
        self.slack, self._burst_s = parsed.slack, parsed.burst_s
        self._devices: dict[str, list[Device]] = {}
        member = {"controller": reached}
        if ALONE in schemes:
            self._devices[ALONE] = self.crowd.open(stack, "alone")
        if GREEDY in schemes or LEARNED in schemes:
            self._devices[GREEDY] = self._devices[LEARNED] = self.crowd.open(stack, "asks", dispatch=True, **member)
        if CUT in schemes:
            self._devices[CUT] = self.crowd.open(stack, "cuts", dispatch_cut=True, **member)
        if VIEW in schemes:
            self._devices[VIEW] = self.crowd.open(stack, "sees", **member)

    def play(self, scheme: str, load: float, seconds: float, seed: int) -> list[dict[str, Any]]:
        """Return what came of the requests of one scheme in one round."""
        return self.play_by(1 if scheme == LEARNED else 0, scheme, load, seconds, seed)

    def play_by(self, version: int, scheme: str, load: float, seconds: float, seed: int) -> list[dict[str, Any]]:
        """Do the same with a version of the policy that decides on the servers; 0 is sequential greedy."""
        decide_by(self.operator, version, len(self.edges))
        self.crowd.replay(seconds * seed)
        time.sleep(REST_S)
        moments = self.crowd.moments(load * self.crowd.capacity_per_s(), seconds, seed, self._burst_s)
        self.crowd.ask(self._devices[scheme], moments[: len(self.edges)], self.slack)  # everybody is awake
        self.crowd.replay(seconds * seed)
        return self.crowd.ask(self._devices[scheme], moments, self.slack)

    def ask_once(self, scheme: str, number: int) -> dict[str, Any]:
        """Return what came of one request of a device, which the number chooses."""
        which = number % len(self.crowd.graphs)
        return self.crowd.ask_one(self._devices[scheme][which], which, number, 0.0, self.slack)


def settings_of(parsed: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a run as its record has them: all that may change what comes out."""
    chosen = {name: value for name, value in vars(parsed).items() if name != "output"}
    return {name: str(value) if isinstance(value, Path) else value for name, value in chosen.items()}


def write(path: Path, parsed: argparse.Namespace, **record: Any) -> None:
    """Write a record, with its settings and the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"settings": settings_of(parsed), "machine": this_machine().model_dump(), "load_average": os.getloadavg()}
    path.write_text(json.dumps({**about, **record}, indent=1) + "\n", encoding="utf-8")


def draw(path: Path, summary: dict[str, Any], reference: str) -> None:
    """Draw mean latencies, and differences to one scheme as pairs of a round, by load; bars are 95 % intervals."""
    from matplotlib import pyplot as plt

    figure, (means, differences) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    schemes = list(next(iter(summary.values())))
    for number, scheme in enumerate(schemes):
        loads = np.array([float(load) for load in summary]) + 0.008 * (number - (len(schemes) - 1) / 2)
        own = [found[scheme] for found in summary.values()]
        mean, half = np.array([one["mean_s"] for one in own], float).T
        means.errorbar(loads, mean, half, marker="o", capsize=3, color=f"C{number}", label=scheme)
        if scheme != reference:
            mean, half = 100 * np.array([one[f"mean relative to {reference}"] for one in own], float).T
            differences.errorbar(loads, mean, half, marker="o", capsize=3, color=f"C{number}", label=scheme)
    differences.axhline(0.0, color="black", linewidth=0.8)
    means.set(xlabel="load, of what the servers can compute", ylabel="mean latency, s", ylim=(0, None))
    differences.set(xlabel="load, of what the servers can compute", ylabel=f"beside {reference}, %")
    means.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Play all schemes in turns, and keep what came of it."""
    parser = options()
    parser.description = __doc__
    parser.add_argument("--loads", type=float, nargs="+", default=[0.6, 0.8, 0.95, 1.1])
    parser.add_argument(
        "--schemes", nargs="+", choices=[*SCHEMES, CUT], default=SCHEMES, help="the first one is compared with"
    )
    parser.add_argument("--delay-s", type=float, default=0.0, help="of the way to the controller, and of that back")
    parsed = parser.parse_args()
    output = parsed.output or RESULTS / "worth_it.json"
    rounds: dict[str, dict[str, list[dict[str, float]]]] = {
        f"{load:g}": {scheme: [] for scheme in parsed.schemes} for load in parsed.loads
    }
    with ExitStack() as stack:

        def far(address: str) -> Proxy:
            return stack.enter_context(Proxy(address, parsed.delay_s))

        site = Site(stack, parsed, parsed.schemes, far if parsed.delay_s else None)
        for number in range(parsed.rounds):
            for load in parsed.loads:
                own = rounds[f"{load:g}"]
                for scheme in rotated(parsed.schemes, number):
                    rows = site.play(scheme, load, parsed.round_s, number)
                    busy = sum(row["server_s"] for row in rows) / (parsed.round_s * len(site.edges))
                    own[scheme].append({**measures(rows), "busy": round(busy, 3)})
                    print(number, load, scheme, own[scheme][-1], flush=True)
            summary = {load: compared(own, parsed.schemes[0]) for load, own in rounds.items()}
            write(output, parsed, capacity_per_s=site.crowd.capacity_per_s(), summary=summary, rounds=rounds)
            draw(output.with_suffix(".png"), summary, parsed.schemes[0])
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()

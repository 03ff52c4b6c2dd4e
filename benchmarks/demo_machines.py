"""Run the demo on this machine as it is, and as weaker or busier machines: does its story hold there too?

    python benchmarks/demo_machines.py
    python benchmarks/demo_machines.py --only "one core" --rounds 6

One core is `taskset`; shares of a core are quotas of a control group, which take root; "busy" is beside so many
processes that compute without end. A kind of machine that cannot be had here is left out, and said. Writes
benchmarks/results/demo_machines.json, and prints it as a table.
"""

import json
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import harness

PERIOD_US = 100_000
GROUPS = Path("/sys/fs/cgroup")
BUSY = "while True: sum(range(100_000))"


class Machine(NamedTuple):
    """A kind of machine."""

    one_core: bool = False
    quota: float | None = None
    """Processor time that the demo may take, in cores."""
    busy: int = 0
    """Processes that compute beside it."""


MACHINES = {
    "as it is": Machine(),
    "one core": Machine(one_core=True),
    "quota of one core": Machine(quota=1.0),
    "quota of half a core": Machine(quota=0.5),
    "four busy processes": Machine(busy=4),
}


@contextmanager
def quota_group(cores: float) -> Iterator[Path]:
    """Yield the file that moves a process into a control group with a quota."""
    is_first = (GROUPS / "cpu").is_dir()
    folder = (GROUPS / "cpu" if is_first else GROUPS) / f"coinfer-demo-{time.monotonic_ns()}"
    folder.mkdir()
    try:
        if is_first:
            (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (folder / "cpu.cfs_quota_us").write_text(str(int(cores * PERIOD_US)))
        else:
            (folder / "cpu.max").write_text(f"{int(cores * PERIOD_US)} {PERIOD_US}")
        yield folder / "cgroup.procs"
    finally:
        folder.rmdir()


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    running = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def run(machine: Machine, demo: list[str]) -> dict[str, Any]:
    """Return the summary of a demo, with the seconds that it took."""
    with ExitStack() as stack:
        runs = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(busy_processes(machine.busy))
        command = [*(("taskset", "-c", "0") if machine.one_core else ()), *demo, "--runs", runs]
        if machine.quota:
            file = stack.enter_context(quota_group(machine.quota))
            command = ["sh", "-c", f'echo $$ > {file} && exec "$@"', "sh", *command]
        began_s = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        took_s = time.monotonic() - began_s
        summary = json.loads(next(Path(runs).glob("*/summary.json")).read_text())
    return {"seconds": round(took_s, 1)} | summary


def short(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the record keeps."""
    settings = summary["settings"]
    schemes = {
        one["scheme"]: {
            "mean_ms": round(one["mean_s"] * 1e3, 1),
            "interval_ms": round(one["mean_interval_s"] * 1e3, 1),
            "over_planner": round(one["behind"], 3),
            "over_planner_interval": round(one["behind_interval"], 3),
            "by_phase_ms": [round(mean_s * 1e3) for mean_s in one["by_phase_s"]],
            "in_time": round(one["in_time"], 3),
            "right": round(one["right"], 3),
            "sent_kb": round(one["sent_bytes"] / 1e3, 2),
            "energy_mj": round(one["energy_j"] * 1e3),
            "prediction_error": round(one["prediction_error"], 3),
        }
        for one in summary["schemes"]
    }
    return {
        "seconds": summary["seconds"],
        "rounds": summary["schemes"][0]["requests"],
        "device_slowdown": settings["device_slowdown"],
        "deadline_s": settings["deadline_s"],
        "schemes": schemes,
    }


def show(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a table: mean latency of each scheme, and how much longer than the planner it takes."""
    names = list(next(iter(found.values()))["schemes"])
    print("| machine | seconds, rounds | " + " | ".join(names) + " |")
    print("|" + "---|" * (len(names) + 2))
    for machine, one in found.items():
        cells = [
            f"{s['mean_ms']:.0f} ± {s['interval_ms']:.0f} ms"
            + (f" ({s['over_planner']:+.0%} ± {s['over_planner_interval'] * 100:.0f})" if i else "")
            + f", {s['in_time']:.0%} in time"
            for i, s in enumerate(one["schemes"].values())
        ]
        print(f"| {machine} | {one['seconds']:.0f}, {one['rounds']} | " + " | ".join(cells) + " |")


def measured(given: Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each kind of machine with what the demo found on it."""
    demo = [sys.executable, "-m", "coinfer", "demo", "--rounds", str(2 if given.quick else given.rounds)]
    for name in given.only:
        try:
            found = short(run(MACHINES[name], [*demo, *(("--model", "alexnet-cifar") if given.quick else ())]))
        except (OSError, subprocess.CalledProcessError) as error:
            harness.CONSOLE.print(f"{name}: left out, {error}", soft_wrap=True)
            continue
        harness.CONSOLE.print(f"{name}: {found['seconds']:.0f} s")
        yield name, found


def main() -> None:
    options = harness.parser(__doc__, "demo_machines")
    options.add_argument("--rounds", type=int, default=14, help="rounds of each phase")
    options.add_argument("--only", nargs="+", choices=list(MACHINES), default=list(MACHINES), help="kinds of machines")
    given = options.parse_args()
    found = dict(measured(given))
    if not found:
        raise SystemExit("none of these machines can be had here")
    show(found)
    harness.write(given, machines=found)


if __name__ == "__main__":
    main()

"""Trains every scheme at every arrival rate and measures it; the figures' scripts draw what this writes.

    python experiments/cdo-dsac/run.py [--device cuda]

Ten seeds are trained side by side in one process (and CDO-DSAC's five agents with them); every scheme and rate is a
process of its own. What was stopped goes on: a scheme and rate whose file
is in PARTS (OUT/parts without it) is not trained again. Writes OUT/results.json and OUT/policy.safetensors (CDO-DSAC's
actors at rate 2).
`--quick` shows that it runs: two seeds, few rounds. On two cores the whole takes about half an hour.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save_file
from schemes import CANDIDATES, JUDGE_SLOTS, SCHEMES, WORLDS, Budget, measure

from coinfer.profile.measure import this_machine
from coinfer.scenario.compile import fingerprint, open_world

HERE = Path(__file__).resolve().parent
RATES, BASE_RATE = (0.4, 0.8, 1.2, 1.6, 2.0), 2.0
CAPACITIES, BASE_CAPACITY = (20, 25, 30, 35, 40, 45), 30
EVERYWHERE = (
    "greedy", "random", "two-choices", "sequential-greedy", "untrained", "cdo-dsac", "untrained-table", "online-rl",
    "untrained-ddpg", "ddpg", "ddpg-running",
)  # fmt: skip
PARTS = (
    "cdo-dsac-one", "cdo-dsac-silent", "cdo-dsac-apart", "cdo-dsac-alone", "cdo-dsac-one-batch", "cdo-dsac-omega-10",
    "cdo-dsac-omega-25", "cdo-dsac-omega-100", "cdo-dsac-omega-200",
)  # fmt: skip
"""At one rate and one capacity."""
AT_BASE = (
    *PARTS, "untrained-seen", "cdo-dsac-seen",
    "untrained-ranked", "cdo-dsac-ranked", "untrained-flat", "cdo-dsac-flat", "ddpg-flat", "untrained-table-running",
    "online-rl-running",
)  # fmt: skip
SEEDS, EPISODES = 10, 8
CONSOLE = Console(highlight=False)


def changes(rate: float, capacity: int = BASE_CAPACITY) -> dict[str, Any]:
    return {"arrivals.mean": rate, "arrivals.variance": 0.175 * rate**2, "servers.0.capacity": capacity}


def jobs(only: list[str]) -> list[tuple[str, float]]:
    """What matters most comes first."""
    named = [(scheme, BASE_RATE) for scheme in (*EVERYWHERE[:8], *AT_BASE, *EVERYWHERE[8:])]
    named += [(scheme, rate) for rate in reversed(RATES[:-1]) for scheme in EVERYWHERE]
    return [job for job in named if not only or job[0] in only or f"{job[0]}@{job[1]}" in only]


def work(scheme: str, rate: float, budget: Budget, parts: Path) -> None:
    """Trains and measures one scheme at one rate and writes its file."""
    torch.set_num_threads(1)
    if budget.device.startswith("cuda"):
        torch.backends.cuda.matmul.allow_tf32 = True
    began_s = time.process_time()
    world: Any = open_world("cdo-dsac", changes(rate)).world
    trained = SCHEMES[scheme](world, budget)
    found = {}
    for capacity in CAPACITIES if rate == BASE_RATE and scheme not in PARTS else (BASE_CAPACITY,):
        here: Any = open_world("cdo-dsac", changes(rate, capacity)).world
        found[str(capacity)] = measure(here, trained.policy(), budget.seeds, EPISODES, budget.device)
    if trained.weights and rate == BASE_RATE:
        save_file({n: w.contiguous() for n, w in trained.weights.items()}, parts / f"{scheme}.safetensors")
    record = {
        "scheme": scheme, "rate": rate, "played": trained.played, "kept": trained.kept,
        "slots_per_s": round(trained.slots_per_s), "processor_s": round(time.process_time() - began_s, 1),
        "curve": trained.curve, "measured": found,
    }  # fmt: skip
    partial = parts / f"{scheme}@{rate}.json.new"
    partial.write_text(json.dumps(record), encoding="utf-8")
    partial.rename(parts / f"{scheme}@{rate}.json")


def run_all(settings: argparse.Namespace, parts: Path, until: float) -> None:
    """Every job that has no file yet, so many at a time."""
    waiting = [job for job in jobs(settings.only) if not (parts / f"{job[0]}@{job[1]}.json").exists()]
    running: dict[str, subprocess.Popen[bytes]] = {}
    while waiting or running:
        for name, process in list(running.items()):
            if process.poll() is not None:
                CONSOLE.print(f"{time.time() - settings.began:6.0f} s  {name} ended with {process.returncode}")
                del running[name]
        while waiting and len(running) < settings.jobs:
            scheme, rate = waiting.pop(0)
            command = [sys.executable, __file__, *sys.argv[1:], "--job", f"{scheme}@{rate}", "--until", str(until)]
            log = (parts / f"{scheme}@{rate}.log").open("wb")
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            running[f"{scheme}@{rate}"] = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        time.sleep(0.3)


def gather(settings: argparse.Namespace, parts: Path) -> None:
    """All parts as one file."""
    found = [json.loads(path.read_text()) for path in sorted(parts.glob("*.json"))]
    world: Any = open_world("cdo-dsac").world
    device = torch.cuda.get_device_name() if settings.device.startswith("cuda") else "processor"
    record = {
        "command": f"python experiments/cdo-dsac/run.py --slots {settings.slots} --seeds {settings.seeds}",
        "machine": this_machine().model_dump(),
        "device": device,
        "processor_s": round(sum(part["processor_s"] for part in found)),
        "seeds": settings.seeds,
        "episodes": EPISODES,
        "candidates": CANDIDATES,
        "worlds": WORLDS,
        "slots": world.edge.slots,
        "fingerprint": fingerprint(world),
        "networks": ["AlexNet", "VGG16", "ResNet-50"],
        "parts": found,
    }
    (settings.out / "results.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    if (weights := parts / "cdo-dsac.safetensors").exists():
        shutil.copyfile(weights, settings.out / "policy.safetensors")
    for path in sorted(parts.glob("*.log")):
        text = path.read_text(errors="replace").strip()
        if text:
            print(f"--- {path.name}\n{text[-1500:]}")
    for part in sorted(found, key=lambda p: (p["rate"], p["scheme"])):
        here = part["measured"][str(BASE_CAPACITY)]["all"]
        mean, good = (sum(here[name]) / len(here[name]) for name in ("latency_s", "in_time"))
        CONSOLE.print(
            f"{part['rate']:.1f} {part['scheme']:18} {1000 * mean:7.1f} ms {100 * good:6.2f} % in time, "
            f"{sum(part['played'].values()):,} slots, {part['slots_per_s']:,} slots/s, {part['processor_s']} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--parts", type=Path)
    parser.add_argument("--slots", type=int, default=6000, help="that a seed plays to learn, the updater's included")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--limit", type=float, default=1e9, help="seconds after which all training ends")
    parser.add_argument("--only", nargs="*", default=[], help="schemes, or SCHEME@RATE")
    parser.add_argument("--quick", action="store_true", help="two seeds, few slots")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, default=0.0, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    settings.began = time.time()
    if settings.quick:
        settings.slots, settings.seeds = 400, 2
    parts = settings.parts or settings.out / "parts"
    for folder in (settings.out, parts):
        folder.mkdir(parents=True, exist_ok=True)
    if settings.job:
        scheme, rate = settings.job.split("@")
        until_s = time.monotonic() + settings.until - time.time()
        budget = Budget(settings.slots, settings.seeds, JUDGE_SLOTS, until_s, settings.device)
        work(scheme, float(rate), budget, parts)
        return
    run_all(settings, parts, settings.began + settings.limit)
    gather(settings, parts)


if __name__ == "__main__":
    main()

"""Accuracy of every exit, and of the same networks trained without exits, on both kinds of CIFAR-10 copies.

    python experiments/exits/run.py --data FOLDER --out FOLDER [--minutes 8] [--quick]

FOLDER holds the packed copies `cifar10_*.npz`. On a GPU all trainings run side by side, each on a stream of its own;
the number of epochs is cut down until they fit into `--minutes`. Writes `results.json` and the trained weights.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")

import numpy as np
import torch
from safetensors.numpy import save_file

from coinfer.exit_training.modules import GraphModule
from coinfer.exit_training.pictures import Pictures
from coinfer.exit_training.settings import ExitSettings
from coinfer.exit_training.train import round_weights
from coinfer.exit_training.trainer import Trainer, count_correct
from coinfer.graph.ir import ModelGraph
from coinfer.graph.zoo import early_exits, networks
from coinfer.profile.dataset import ImageDataset, load_dataset
from coinfer.units import MIB

JPEG, ORIGINAL = "jpeg", "original"
EPOCHS = {"alexnet": 100, "vgg16": 40, "resnet32": 60}
"""Wanted, by the first word of the network's name."""
BATCHES = {JPEG: 256, ORIGINAL: 64}
ORIGINAL_EPOCHS = 200
"""Of the small set of original pixels."""
PART_BYTES = 15 * MIB
"""Of files with weights; larger archives are cut into parts."""


class Run(NamedTuple):
    network: str
    data: str
    seed: int
    weights: tuple[float, ...] = ()
    rate: float = 0.05

    @property
    def name(self) -> str:
        extra = "".join(f"-w{weight:g}" for weight in self.weights) + (f"-r{self.rate:g}" if self.rate != 0.05 else "")
        return f"{self.network}.{self.data}{extra}.{self.seed}"


def wanted() -> list[Run]:
    found = [
        Run(network, data, seed)
        for network in ("alexnet-cifar-exits", "alexnet-cifar")
        for data in (JPEG, ORIGINAL)
        for seed in range(5)
    ]
    for network in ("vgg16-cifar-exits", "vgg16-cifar", "resnet32-cifar-exits", "resnet32"):
        rate = 0.1 if network.startswith("resnet") else 0.05
        found += [Run(network, JPEG, seed, rate=rate) for seed in range(2)]
    for weights in ((1.0, 0.3, 0.3), (0.3, 0.3, 1.0)):
        found.append(Run("alexnet-cifar-exits", JPEG, 0, weights))
        found += [Run("alexnet-cifar-exits", ORIGINAL, seed, weights) for seed in range(3)]
    found.append(Run("alexnet-cifar-exits", JPEG, 0, rate=0.1))
    return found


def build(name: str) -> ModelGraph:
    return early_exits.build(name) if name in early_exits.EXITS else networks.build(name)


def load(folder: Path) -> dict[tuple[str, str], ImageDataset]:
    subset = folder / "cifar10_lossless_subset.npz"
    places = {JPEG: folder, ORIGINAL: subset}
    return {(kind, split): load_dataset(where, split) for kind, where in places.items() for split in ("train", "test")}


class Lane:
    """One training on its own stream of the GPU."""

    def __init__(
        self, run: Run, data: ImageDataset, settings: ExitSettings, pictures: Pictures, captured: bool
    ) -> None:
        self.run = run
        self.stream = torch.cuda.Stream() if settings.device == "cuda" else None
        with self.active():
            self.trainer = Trainer(build(run.network), data, settings, pictures)
            if captured:
                self.trainer.capture()
        self.within = 0

    def restart(self, scale: float) -> None:
        """From the beginning, with fewer epochs."""
        with self.active():
            self.trainer.restart(max(2, round(scale * self.trainer.settings.epochs)))
        self.within = 0

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        with torch.cuda.stream(self.stream) if self.stream else contextlib.nullcontext():
            yield

    @property
    def share(self) -> float:
        """Done so far, 0 to 1."""
        steps = self.trainer.steps
        return (len(self.trainer.epochs) + self.within / steps) / self.trainer.settings.epochs

    def advance(self) -> None:
        with self.active():
            if self.within == 0:
                self.trainer.begin_epoch()
            self.trainer.step()
            self.within += 1
            if self.within == self.trainer.steps:
                self.trainer.end_epoch()
                self.within = 0


def epochs_of(run: Run, quick: bool) -> int:
    if quick:
        return 2
    return ORIGINAL_EPOCHS if run.data == ORIGINAL else EPOCHS[run.network.split("-")[0].removesuffix("-cifar")]


def lanes_of(runs: list[Run], data: dict, device: str, captured: bool, quick: bool) -> list[Lane]:
    found, pictures = [], dict[str, Pictures]()
    for run in runs:
        epochs, train = epochs_of(run, quick), data[run.data, "train"]
        settings = ExitSettings(
            epochs=epochs,
            batch=BATCHES[run.data],
            patience=epochs,
            seed=run.seed,
            weights=run.weights,
            learning_rate=run.rate,
            device=device,
        )
        if run.data not in pictures:
            pictures[run.data] = Pictures.load(train, settings)
            if device == "cuda":
                torch.cuda.synchronize()
        found.append(Lane(run, train, settings, pictures[run.data], captured))
    return found


def advance_all(lanes: list[Lane], until: float, deadline_s: float) -> None:
    """Steps of all lanes so that they end together."""
    told_s = time.monotonic()
    open_lanes = [lane for lane in lanes if lane.share < until]
    while open_lanes and time.monotonic() < deadline_s:
        least = min(open_lanes, key=lambda lane: lane.share)
        least.advance()
        if least.share >= until:
            open_lanes.remove(least)
        if time.monotonic() - told_s > 10:
            told_s = time.monotonic()
            done = min((lane.share for lane in lanes), default=1.0)
            said = {lane.run.name: lane.trainer.epochs[-1].holdout for lane in lanes[::7] if lane.trainer.epochs}
            text = " ".join(f"{name} {[round(100 * share, 1) for share in shares]}" for name, shares in said.items())
            print(f"{100 * done:5.1f} % {text}", flush=True)


def calibrate(lanes: list[Lane], budget_s: float) -> float:
    """The factor on the epochs with which everything fits into the budget."""
    sample = min(0.5, max(0.006, 3 / min(lane.trainer.steps * lane.trainer.settings.epochs for lane in lanes)))
    began_s = first_s = time.monotonic()
    for target in (sample / 2, sample):
        began_s = time.monotonic()
        advance_all(lanes, target, began_s + budget_s)
        if lanes[0].stream:
            torch.cuda.synchronize()
    whole_s = (time.monotonic() - began_s) / (sample / 2)
    budget_s -= time.monotonic() - first_s
    print(f"all epochs would take {whole_s:.0f} s, there are {budget_s:.0f} s", flush=True)
    return min(1.0, 0.92 * budget_s / whole_s)


def judged(lane: Lane, data: dict, folder: Path) -> dict[str, Any]:
    """Right answers of every exit on both test sets, with the weights rounded to float16 as they are stored."""
    trainer = lane.trainer
    if trainer.best < 0:
        with lane.active():
            trainer.end_epoch()
    trained = trainer.result()
    graph = round_weights(trained.graph)
    found = {}
    for key, one in (("float32", trained.graph), ("float16", graph)):
        module = GraphModule(one).to(trainer.device)
        for kind in (JPEG, ORIGINAL):
            test = data[kind, "test"]
            images, labels = (torch.from_numpy(values).to(trainer.device) for values in (test.images, test.labels))
            correct = count_correct(module, trainer.image, images, labels).tolist()
            found[f"{kind} {key}"] = {"correct": correct, "samples": len(test.labels), "kind": test.kind}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.astype(np.float16) for key, value in graph.weights.items()}, folder / f"{lane.run.name}.st")
    epochs = [{"loss": e.loss, "holdout": e.holdout} for e in trainer.epochs]
    facts = {"epochs": trainer.settings.epochs, "best": trained.best, "batch": trainer.batch, "low": trainer.bfloat16}
    return lane.run._asdict() | facts | {"test": found, "history": epochs[:: max(1, len(epochs) // 20)]}


def work(runs: list[Run], data: dict, options: argparse.Namespace, captured: bool) -> list[dict[str, Any]]:
    """Trains and judges these runs in this process."""
    began_s = time.monotonic()
    lanes = lanes_of(runs, data, options.device, captured, options.quick)
    print(f"{len(lanes)} trainings set up in {time.monotonic() - began_s:.0f} s", flush=True)
    left_s = 60 * options.minutes - (time.monotonic() - began_s)
    scale = options.scale or calibrate(lanes, left_s)
    for lane in lanes:
        lane.restart(scale)
    print(f"epochs scaled by {scale:.3f}", flush=True)
    advance_all(lanes, 1.0, began_s + 60 * options.minutes)
    print(f"trained in {time.monotonic() - began_s:.0f} s", flush=True)
    return [judged(lane, data, options.out / "weights") for lane in lanes]


def capture_works(data: dict) -> bool:
    """Whether a step can be captured and replayed here and trains as the plain step does."""
    try:
        run = Run("alexnet-cifar", ORIGINAL, 0)
        lanes = [lanes_of([run], data, "cuda", flag, False)[0] for flag in (False, True)]
        for lane in lanes:
            lane.restart(6 / ORIGINAL_EPOCHS)
        advance_all(lanes, 1.0, time.monotonic() + 60)
        plain, captured = ([epoch.loss for epoch in lane.trainer.epochs] for lane in lanes)
        print("losses plain", plain, "captured", captured, flush=True)
        return bool(np.allclose(plain, captured, rtol=0.1)) and captured[-1] < captured[0]
    except RuntimeError as error:
        print(f"cannot capture: {' '.join(str(error).split())[:300]}", flush=True)
        return False


def in_processes(runs: list[Run], options: argparse.Namespace) -> list[dict[str, Any]]:
    """The runs dealt out to several processes; each prints on its own."""
    groups = [runs[i :: options.processes] for i in range(options.processes)]
    started = []
    for i, group in enumerate(filter(None, groups)):
        command = [sys.executable, __file__, "--data", options.data, "--out", options.out / f"part{i}"]
        command += ["--device", options.device, "--minutes", options.minutes, "--only", ",".join(r.name for r in group)]
        command += ["--processes", 1, "--no-archive"] + ["--eager"] * options.eager + ["--quick"] * options.quick
        started.append((subprocess.Popen([str(word) for word in command]), options.out / f"part{i}"))
    found = []
    for process, folder in started:
        if process.wait() == 0:
            found += json.loads((folder / "results.json").read_text())["runs"]
            for file in (folder / "weights").iterdir():
                (options.out / "weights").mkdir(parents=True, exist_ok=True)
                file.replace(options.out / "weights" / file.name)
        shutil.rmtree(folder, ignore_errors=True)
    return found


def archive(folder: Path) -> None:
    """The weights of the first seeds and of all AlexNets with exits, in files of a size that travels."""
    path = folder / "weights.tar"
    with tarfile.open(path, "w") as tar:
        for file in sorted((folder / "weights").glob("*.st")):
            network, *_, seed = file.stem.split(".")
            if network == "alexnet-cifar-exits" or (seed == "0" and network != "vgg16-cifar"):
                tar.add(file, file.name)
    shutil.rmtree(folder / "weights")
    data = path.read_bytes()
    for i in range(0, len(data), PART_BYTES):
        (folder / f"weights.tar.{i // PART_BYTES}").write_bytes(data[i : i + PART_BYTES])
    path.unlink()


def summary(found: list[dict[str, Any]]) -> None:
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in found:
        name = Run(one["network"], one["data"], 0, tuple(one["weights"]), one["rate"]).name.removesuffix(".0")
        groups.setdefault(name, []).append(one)
    for name, members in groups.items():
        for key in members[0]["test"]:
            shares = np.array([m["test"][key]["correct"] for m in members]) / members[0]["test"][key]["samples"]
            said = " ".join(f"{100 * m:.2f}±{100 * s:.2f}" for m, s in zip(shares.mean(0), shares.std(0), strict=True))
            print(f"{name:45s} {key:17s} n={len(members)} epochs={members[0]['epochs']} {said}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=8.0, help="of training, set-up included")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--scale", type=float, help="factor on the epochs; measured without it")
    parser.add_argument("--only", default="", help="names of runs, or beginnings of them, with commas")
    parser.add_argument("--eager", action="store_true", help="do not capture the steps")
    parser.add_argument("--quick", action="store_true", help="two epochs of a few pictures")
    parser.add_argument("--no-archive", action="store_true")
    options = parser.parse_args()
    began_s = time.monotonic()
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(1 if options.device == "cpu" else 4)
    data = load(options.data)
    if options.quick:
        data = {key: value.take(300) for key, value in data.items()}
    runs = [run for run in wanted() if run.name.startswith(tuple(options.only.split(",")))]
    print(f"{len(runs)} runs, pictures read in {time.monotonic() - began_s:.0f} s", flush=True)
    captured = options.device == "cuda" and not options.eager
    if captured and not options.no_archive and not capture_works(data):
        captured, options.eager, options.processes = False, True, max(options.processes, 12)
    options.minutes -= (time.monotonic() - began_s) / 60
    options.out.mkdir(parents=True, exist_ok=True)
    found = in_processes(runs, options) if options.processes > 1 else work(runs, data, options, captured)
    device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    about = {"device": device, "torch": torch.__version__, "seconds": time.monotonic() - began_s, "captured": captured}
    (options.out / "results.json").write_text(json.dumps(about | {"runs": found}, indent=1) + "\n")
    summary(found)
    if not options.no_archive:
        archive(options.out)


if __name__ == "__main__":
    main()

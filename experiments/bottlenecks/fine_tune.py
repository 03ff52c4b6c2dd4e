"""Teach a trained network what a codec leaves of pictures: the fairest rival of a code.

    python experiments/bottlenecks/fine_tune.py --model resnet12 --data runs/imagenette96 --through WEBP:20 \\
        --out runs/resnet12-webp20

As the layers behind a code are trained: from the network's own weights, with the untouched network, which sees the
untouched pictures, as its teacher, the same mixtures, rates and weights of the losses. All layers are trained. Writes
OUT/NAME.onnx, NAME.input.yaml and training.json.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from train_network import describe_pictures, through

from coinfer.exit_training import augment
from coinfer.exit_training.bottleneck.losses import distillation, mixed_label_loss
from coinfer.exit_training.bottleneck.settings import BottleneckSettings
from coinfer.exit_training.bottleneck.trainer import learning_rate
from coinfer.exit_training.modules import GraphModule
from coinfer.exit_training.precision import picture_input, use_bfloat16
from coinfer.exit_training.train import round_weights
from coinfer.graph.open_model import open_model
from coinfer.graph.segment import save_model
from coinfer.profile.dataset import load_dataset
from coinfer.progress import progress_bar

TAIL_RATE = 0.3
"""As in the training of the shipped codes."""


class FineTuning:
    """A network that learns, and itself untouched as its teacher."""

    def __init__(self, parsed: argparse.Namespace) -> None:
        self.graph = open_model(parsed.model)
        data = load_dataset(parsed.data, "train")
        self.settings = BottleneckSettings(
            epochs=parsed.epochs, mixup=0.5, label_weight=0.5, crop=data.images.shape[1] // 8, weight_decay=0.0
        )
        self.seen = torch.from_numpy(augment.pad(through(data, parsed.through).images, self.settings.crop))
        self.plain = torch.from_numpy(augment.pad(data.images, self.settings.crop))
        self.labels = torch.from_numpy(data.labels)
        self.image = picture_input(self.graph, data)
        self.scale = augment.channel_scale(self.image, torch.device("cpu"))
        self.bfloat16 = use_bfloat16("auto", torch.device("cpu"))
        self.student, self.teacher = (
            GraphModule(self.graph).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            for _ in range(2)
        )
        self.teacher.requires_grad_(False).eval()
        rate = TAIL_RATE * self.settings.learning_rate
        self.optimiser = torch.optim.AdamW(self.student.parameters(), rate, betas=(0.9, 0.99), weight_decay=0.0)
        order = np.random.default_rng(self.settings.seed).permutation(len(data.labels))
        count = round(self.settings.holdout * len(order))
        self.holdout, self.rows = torch.from_numpy(order[:count]), order[count:]
        self.steps = len(self.rows) // self.settings.batch

    def run_epoch(self, number: int, report: Any) -> dict[str, float]:
        """Train on all pictures once."""
        began_s, total, settings = time.perf_counter(), 0.0, self.settings
        random = np.random.default_rng((settings.seed, number))
        rows = torch.from_numpy(random.permutation(self.rows)[: self.steps * settings.batch])
        draws = torch.from_numpy(augment.draw(random, len(rows), self.image, settings.crop))
        weights = torch.from_numpy(random.random(len(rows), np.float32))
        weights[torch.from_numpy(random.random(len(rows)) >= settings.mixup)] = 1.0
        self.student.train()
        for i in range(self.steps):
            part = slice(i * settings.batch, (i + 1) * settings.batch)
            step = number * self.steps + i + 1
            total += self._step(rows[part], draws[:, part], weights[part], step)
            report(step, settings.epochs * self.steps, f"loss {total / (i + 1):.3f}")
        return {"loss": total / self.steps, "holdout": self.measure(), "seconds": time.perf_counter() - began_s}

    def _step(self, rows: Tensor, draws: Tensor, weights: Tensor, number: int) -> float:
        settings = self.settings
        seen, plain = (
            augment.mix(augment.augment(padded, rows, draws, self.scale, settings.crop, 0), weights)
            for padded in (self.seen, self.plain)
        )
        for group in self.optimiser.param_groups:
            group["lr"] = TAIL_RATE * learning_rate(settings, number, self.steps * settings.epochs)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            mine = self._logits(self.student, seen).float()
            with torch.no_grad():
                theirs = self._logits(self.teacher, plain).float()
        labels = mixed_label_loss(mine, self.labels[rows], weights)
        loss = distillation(mine, theirs, settings.temperature) + settings.label_weight * labels
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())

    def _logits(self, module: GraphModule, x: Tensor) -> Tensor:
        return module.compute({self.graph.inputs[0]: x}, self.graph.outputs[-1:])[0]

    @torch.no_grad()
    def measure(self) -> float:
        """Return the share of the held-out pictures, as the codec leaves them, that are answered rightly."""
        self.student.eval()
        crop, height, width = self.settings.crop, self.image.height, self.image.width
        pixels = self.seen[self.holdout, crop : crop + height, crop : crop + width]
        answers = self._logits(self.student, augment.normalise(pixels, self.scale)).argmax(1)
        return float((answers == self.labels[self.holdout]).float().mean())


def main() -> None:
    """Train, and write the network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet12")
    parser.add_argument("--data", type=Path, required=True, help="folder of pack_pictures.py")
    parser.add_argument("--through", required=True, help="JPEG:QUALITY or WEBP:QUALITY")
    parser.add_argument("--out", type=Path, required=True, help="folder of the network")
    parser.add_argument("--epochs", type=int, default=15)
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    training = FineTuning(parsed)
    with progress_bar(Console(), "training") as report:
        epochs = [training.run_epoch(number, report) for number in range(parsed.epochs)]
    path = parsed.out / f"{parsed.out.name}.onnx"
    parsed.out.mkdir(parents=True, exist_ok=True)
    save_model(round_weights(training.student.graph(parsed.out.name)), path)
    describe_pictures(path)
    record = {
        "network": parsed.model,
        "through": parsed.through,
        "settings": asdict(training.settings),
        "epochs": epochs,
    }
    (parsed.out / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(path, "held out:", epochs[-1]["holdout"])


if __name__ == "__main__":
    main()

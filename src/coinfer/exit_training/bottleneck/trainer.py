"""A training of a bottleneck, epoch by epoch; `train` runs it to its end and describes the method."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coinfer.checkpoint import write_atomically
from coinfer.errors import TrainingError
from coinfer.exit_training import augment, checkpoints
from coinfer.exit_training.bottleneck.losses import distillation, mixed_label_loss
from coinfer.exit_training.bottleneck.nets import Decoder, Encoder, Prior, encoder_shapes, encoder_width, rounded
from coinfer.exit_training.bottleneck.places import exits_behind
from coinfer.exit_training.bottleneck.settings import BottleneckEpoch, BottleneckSettings, Place
from coinfer.exit_training.modules import GraphModule
from coinfer.exit_training.pictures import open_device
from coinfer.exit_training.precision import picture_input, use_bfloat16
from coinfer.graph.ir import ModelGraph
from coinfer.profile.dataset import ImageDataset

_EVALUATION_BATCH = 500
_KILOBIT = 1000.0
Report = Callable[[int, int, float], None]
"""Called with steps done in the epoch, steps of the epoch, and the mean loss so far."""


class Losses(NamedTuple):
    """What a batch costs; their sum is minimised."""

    distillation: Tensor
    labels: Tensor
    features: Tensor
    rate: Tensor


class BottleneckTrainer:
    """The parts that are trained, beside the untouched network that teaches them.

    Args:
        graph: the network; it is not changed.
        place: where the bottleneck goes.
        data: pictures of the network's size.
        settings: how to train.

    Raises:
        GraphError: if the graph has no description of its picture input, or cannot be trained.
        TrainingError: if pictures or settings do not fit the network.
    """

    def __init__(self, graph: ModelGraph, place: Place, data: ImageDataset, settings: BottleneckSettings) -> None:
        self.graph, self.place, self.settings, self.kind = graph, place, settings, data.kind
        self.device = open_device(settings.device)
        self.image = picture_input(graph, data)
        order = np.random.default_rng(settings.seed).permutation(len(data.labels))
        count = max(1, round(settings.holdout * len(order)))
        self.holdout_rows, self.training_rows = np.sort(order[:count]), np.sort(order[count:])
        least = 2 * len(settings.channels)
        if min(len(self.training_rows), settings.batch) < least:
            raise TrainingError(
                f"expected a --batch and pictures to train on of at least 2 for each code, {least}, got --batch "
                f"{settings.batch} and {len(self.training_rows)} pictures"
            )
        self.scale = augment.channel_scale(self.image, self.device)
        self.bfloat16 = use_bfloat16(settings.precision, self.device)
        self.outputs = exits_behind(graph, place.target)
        plain = graph.pruned(self.outputs)
        torch.manual_seed(settings.seed)
        self.encoder, self.decoder = bottleneck_modules(graph, place, settings)
        self.prior = Prior(settings.channels[-1], settings.levels)
        self.tail, self.teacher = GraphModule(plain), GraphModule(plain)
        self.teacher.requires_grad_(False).eval()
        self.trained = nn.ModuleDict({"encoder": self.encoder, "decoder": self.decoder, "prior": self.prior})
        if settings.tail_rate > 0:
            self.trained["tail"] = self.tail
        for module in (self.encoder, self.decoder, self.prior, self.tail, self.teacher):
            module.to(self.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.optimiser = torch.optim.AdamW(self._groups(), betas=(0.9, 0.99), weight_decay=settings.weight_decay)
        self.steps = max(1, len(self.training_rows) // settings.batch)
        self.labels = torch.from_numpy(data.labels).to(self.device)
        self.padded = torch.from_numpy(augment.pad(data.images, settings.crop)).to(self.device)
        self.epochs: list[BottleneckEpoch] = []

    def _groups(self) -> list[dict[str, object]]:
        """Return the optimiser's groups: encoder, decoder and prior; their vectors, which do not decay; the tail."""
        inner = [p for name in ("encoder", "decoder", "prior") for p in self.trained[name].parameters()]
        matrices, vectors = [p for p in inner if p.ndim > 2], [p for p in inner if p.ndim <= 2]
        groups: list[dict[str, object]] = [
            {"params": matrices, "scale": 1.0},
            {"params": vectors, "scale": 1.0, "weight_decay": 0.0},
        ]
        if self.settings.tail_rate > 0:
            used = self._tail_weights()
            groups.append({"params": used, "scale": self.settings.tail_rate, "weight_decay": 0.0})
        return groups

    def _tail_weights(self) -> list[nn.Parameter]:
        """Return the parameters behind the decoder."""
        graph = self.tail.source
        names = [name for i in graph.needed((self.place.target,), graph.outputs) for name in graph.ops[i].weights]
        return [self.tail.weights[name.replace(".", "/")] for name in dict.fromkeys(names)]

    @property
    def finished(self) -> bool:
        """Return true if all epochs are done."""
        return len(self.epochs) >= self.settings.epochs

    def run_epoch(self, report: Report) -> BottleneckEpoch:
        """Train on all pictures once, and measure on those held out.

        Args:
            report: called after each step.

        Returns:
            The figures of the epoch, which are also the last of `epochs`.

        Raises:
            TrainingError: if the loss is not finite.
        """
        began_s, total = time.perf_counter(), 0.0
        self.trained.train()
        for i, changes in enumerate(self._batches(), 1):
            total += self._step(*changes, len(self.epochs) * self.steps + i)
            report(i, self.steps, total / i)
        right, size_bits = self.measure(self.holdout_rows)
        self._check_finite(sum(size_bits))  # after the last step
        self.epochs.append(BottleneckEpoch(total / self.steps, right, size_bits, time.perf_counter() - began_s))
        return self.epochs[-1]

    def _check_finite(self, figure: float) -> None:
        """Raise if the training has left the numbers."""
        if not math.isfinite(figure):
            settings = self.settings
            raise TrainingError(
                f"{self.graph.name}: the loss is no number any more in epoch {len(self.epochs) + 1}; lower --rate "
                f"{settings.learning_rate:g}, --label-weight {settings.label_weight:g} or --size-weight "
                f"{settings.rate_weight:g}"
            )

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield pictures, their random changes and their own weights in mixtures [B], by seed and epoch."""
        random = np.random.default_rng((self.settings.seed, len(self.epochs)))
        size = min(self.settings.batch, len(self.training_rows))
        rows = self.training_rows[random.permutation(len(self.training_rows))[: self.steps * size]]
        draws = augment.draw(random, len(rows), self.image, self.settings.crop)
        mixed, weights = random.random(len(rows)) < self.settings.mixup, random.random(len(rows), np.float32)
        weights[~mixed] = 1.0
        for i in range(0, len(rows), size):
            part = slice(i, i + size)
            yield (
                torch.from_numpy(rows[part]),
                torch.from_numpy(draws[:, part]),
                torch.from_numpy(weights[part]),
            )

    def _step(self, rows: Tensor, draws: Tensor, weights: Tensor, number: int) -> float:
        settings = self.settings
        rows, draws, weights = rows.to(self.device), draws.to(self.device), weights.to(self.device)
        x = augment.augment(self.padded, rows, draws, self.scale, settings.crop, settings.cutout)
        x = augment.mix(x, weights) if settings.mixup else x
        for group in self.optimiser.param_groups:
            group["lr"] = group["scale"] * learning_rate(settings, number, self.steps * settings.epochs)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            losses = self._losses(x, self.labels[rows], weights)
        loss = sum(losses[1:], start=losses.distillation)
        found = float(loss.detach())
        self._check_finite(found)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return found

    def _losses(self, x: Tensor, labels: Tensor, weights: Tensor) -> Losses:
        """Return the losses of a batch, of which each nested code gets an equal part."""
        settings, place = self.settings, self.place
        source, features, *theirs = self._teach(x)
        soft = self.encoder(source)
        symbols, bits = rounded(soft), self.prior(soft)
        parts = torch.arange(len(x), device=self.device).tensor_split(len(settings.channels))
        answers, errors, rates = [], [], []
        for code, part in enumerate(parts):
            made = self.decoder(symbols[part], code)
            answers.append(self.tail.compute({place.target: made}, self.outputs))
            errors.append((made.float() - features[part].float()).square().mean())
            rates.append(bits[part, : settings.channels[code]].sum((1, 2, 3)).mean())
        mine = [torch.cat(of_exit).float() for of_exit in zip(*answers, strict=True)]
        pairs, variance = zip(mine, theirs, strict=True), features.float().var() + 1e-6
        return Losses(
            _mean([distillation(own, exact.float(), settings.temperature) for own, exact in pairs]),
            settings.label_weight * _mean([self._label_loss(own, labels, weights) for own in mine]),
            settings.feature_weight * torch.stack(errors).mean() / variance,
            settings.rate_weight * torch.stack(rates).mean() / _KILOBIT + 1e-9 * torch.stack(rates).mean(),
        )

    def _label_loss(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        if not self.settings.mixup:
            return F.cross_entropy(logits, labels)
        return mixed_label_loss(logits, labels, weights)

    @torch.no_grad()
    def _teach(self, x: Tensor) -> list[Tensor]:
        """Return the encoder's input, the tensor to replace and the answers of the untouched network."""
        name, tensors = self.graph.inputs[0], (self.place.source, self.place.target, *self.outputs)
        wanted = [tensor for tensor in tensors if tensor != name]
        found = dict(zip(wanted, self.teacher.compute({name: x}, wanted), strict=True)) | {name: x}
        return [found[tensor] for tensor in tensors]

    @torch.no_grad()
    def encode(self, rows: np.ndarray) -> np.ndarray:
        """Return the symbols of some pictures, uint8 [N, C, side, side], in float32 arithmetic.

        Args:
            rows: indices of the pictures.
        """
        self.trained.eval()
        parts = [self.encoder(self._teach(x)[0]).round() for x, _ in self._unchanged(rows)]
        return torch.cat(parts).to(torch.uint8).cpu().numpy()

    @torch.no_grad()
    def measure(self, rows: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the accuracy of the last exit from each code, and the code's mean size in bits by the prior.

        Args:
            rows: indices of the pictures.
        """
        self.trained.eval()
        codes, place = range(len(self.settings.channels)), self.place
        right, sizes = np.zeros(len(codes)), np.zeros(len(codes))
        for x, truth in self._unchanged(rows):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                symbols = self.encoder(self._teach(x)[0]).round()
                bits = self.prior(symbols)
                for code in codes:
                    made = self.decoder(symbols, code)
                    answer = self.tail.compute({place.target: made}, (place.output,))[0]
                    right[code] += float((answer.argmax(1) == truth).sum())
                    sizes[code] += float(bits[:, : self.settings.channels[code]].sum())
        return tuple((right / len(rows)).tolist()), tuple((sizes / len(rows)).tolist())

    def _unchanged(self, rows: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
        crop, (height, width) = self.settings.crop, (self.image.height, self.image.width)
        for i in range(0, len(rows), _EVALUATION_BATCH):
            some = torch.from_numpy(rows[i : i + _EVALUATION_BATCH]).to(self.device)
            pixels = self.padded[some, crop : crop + height, crop : crop + width]
            yield augment.normalise(pixels, self.scale), self.labels[some]

    # --- checkpoints

    def save(self, path: Path) -> None:
        """Write a checkpoint, as a file that is complete or absent.

        Args:
            path: the file to write or replace; call this between two epochs.

        Raises:
            OSError: if the file cannot be written.
        """
        state = {name: value.detach().contiguous().cpu().clone() for name, value in self._state().items()}
        about = {"format": checkpoints.FORMAT, "epochs": self.epochs, "made_of": self._fingerprint()}
        write_atomically(path, state, {"coinfer": json.dumps(about)})

    def _state(self) -> dict[str, Tensor]:
        """Return all tensors that a step changes, by their names in a checkpoint."""
        moments = {
            f"moment.{i}.{key}": value
            for i, p in enumerate(p for group in self.optimiser.param_groups for p in group["params"])
            for key, value in self.optimiser.state.get(p, {}).items()
        }
        return {f"module.{name}": value for name, value in self.trained.state_dict().items()} | moments

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        Args:
            path: a file that `save` wrote, with the same settings except `device`.

        Raises:
            TrainingError: if the file is damaged or of another training.
        """
        about, state = checkpoints.read(
            path, self._fingerprint(), self.device, what="a bottleneck", remedy="train anew elsewhere"
        )
        self.epochs = [BottleneckEpoch(a, tuple(b), tuple(c), d) for a, b, c, d in about["epochs"]]
        self._load_modules(state)
        for i, p in enumerate(p for group in self.optimiser.param_groups for p in group["params"]):
            prefix = f"moment.{i}."
            moments = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
            if moments:
                self.optimiser.state[p] = moments

    def begin_with(self, path: Path) -> None:
        """Begin with the weights of an earlier training of the same network, place and sizes.

        Args:
            path: its checkpoint.

        Raises:
            TrainingError: if the file is damaged, or its weights do not fit.
        """
        same = ("network", "source", "target", "channels", "bits", "device_share", "width")
        fits = {key: value for key, value in self._fingerprint().items() if key in same}
        _, state = checkpoints.read(path, fits, self.device, what="a bottleneck", remedy="start without it")
        try:
            self._load_modules(state)
        except RuntimeError:  # another version's layers
            raise TrainingError(f"{path}: its layers have other sizes than now; start without it") from None

    def _load_modules(self, state: Mapping[str, Tensor]) -> None:
        prefix = "module."
        self.trained.load_state_dict({n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)})

    def _fingerprint(self) -> dict[str, object]:
        """Return what must be the same when a checkpoint is loaded."""
        settings = {key: value for key, value in asdict(self.settings).items() if key != "device"}
        sizes = {"network": self.graph.fingerprint, "pictures": len(self.labels), "data": self.kind}
        return settings | self.place._asdict() | sizes


def _mean(losses: Sequence[Tensor]) -> Tensor:
    return sum(losses[1:], start=losses[0]) / len(losses)


def bottleneck_modules(graph: ModelGraph, place: Place, settings: BottleneckSettings) -> tuple[Encoder, Decoder]:
    """Return new encoder and decoder for a place.

    Args:
        graph: the network.
        place: where they go.
        settings: channels, bits, width and the encoder's share of the work.
    """
    source, target = graph.tensors[place.source].shape, graph.tensors[place.target].shape
    whole = graph.pruned((place.output,))
    before = sum(graph.ops[i].work_flop for i in graph.needed(graph.inputs, (place.source,)))
    budget = settings.device_share * whole.work_flop - before
    codes = settings.channels[-1]
    width = encoder_width(source[1], source[2], target[2], codes, budget)
    encoder = Encoder(encoder_shapes(source[1], source[2], target[2], width, codes), settings.levels)
    return encoder, Decoder(settings.channels, settings.levels, settings.width, target[1])


def learning_rate(settings: BottleneckSettings, step: int, total: int) -> float:
    """Return the learning rate of encoder and decoder at a step: up along a line, then down along a cosine.

    Args:
        settings: gives the largest rate and the share of the steps in which it rises.
        step: from 1.
        total: number of steps of all epochs.
    """
    done, warm = step / total, max(settings.warmup_share, 1 / total)
    if done <= warm:  # also the only step of a training
        return settings.learning_rate * (done / warm)
    return settings.learning_rate * (0.5 + 0.5 * math.cos(math.pi * (done - warm) / (1 - warm)))

"""A training of all exits of a network, step by step; `train` runs it to its end and describes the method.

The device holds all pictures, and a step only reads and writes tensors there: on a GPU it is captured once and
replayed, so that the GPU does not wait for the processor.
"""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from coinfer.checkpoint import write_atomically
from coinfer.errors import TrainingError
from coinfer.exit_training import augment, checkpoints
from coinfer.exit_training.modules import GraphModule
from coinfer.exit_training.pictures import Pictures, open_device
from coinfer.exit_training.precision import picture_input, use_bfloat16
from coinfer.exit_training.settings import Epoch, ExitSettings, ExitTrainingResult
from coinfer.graph.image_input import ImageInput
from coinfer.graph.ir import ModelGraph
from coinfer.profile.dataset import ImageDataset

_EVALUATION_BATCH = 1000
_WARM_STEPS = 3
_many: Any = torch
"""PyTorch's operations on many tensors at once, which it does not declare to type checkers."""


class Trainer:
    """A training, epoch by epoch: `begin_epoch`, then `steps` times `step`, then `end_epoch`, until `finished`.

    Several trainings may share a GPU, each on its own stream.

    Args:
        graph: the network with its exits; it is not changed.
        data: labelled pictures of the network's size.
        settings: how to train.
        pictures: `data` if it is on the device already, see `Pictures.load`; None to load it.

    Raises:
        GraphError: if the graph has no description of its picture input, or cannot be trained.
        TrainingError: if pictures or settings do not fit the network.
    """

    def __init__(
        self, graph: ModelGraph, data: ImageDataset, settings: ExitSettings, pictures: Pictures | None = None
    ) -> None:
        self.settings, self.device = settings, open_device(settings.device)
        self.image = _validate(graph, data, settings)
        self.scale = augment.channel_scale(self.image, self.device)
        self.graph, self.kind = graph, data.kind
        self.exits = len(graph.outputs)
        self.bfloat16 = use_bfloat16(settings.precision, self.device)
        self.pictures = pictures or Pictures.load(data, settings)
        order = np.random.default_rng(settings.seed).permutation(len(data.labels))
        count = max(1, round(settings.holdout * len(order)))
        self.holdout_rows, self.training_rows = torch.from_numpy(order[:count]).to(self.device), np.sort(order[count:])
        self.steps = max(1, len(self.training_rows) // settings.batch)
        self.batch = min(settings.batch, len(self.training_rows))
        self.module = GraphModule(graph, norm=True)
        self.module = self.module.to(self.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.module.generator = torch.Generator(self.device)
        self.parameters = [value for value in self.module.parameters() if value.requires_grad]
        self.momenta = [torch.zeros_like(value) for value in self.parameters]
        weights = settings.weights or (1.0,) * self.exits
        self.loss_weights = torch.tensor(weights, device=self.device)
        self.learning_rates = torch.zeros(self.steps * settings.epochs, device=self.device)
        self.plan = torch.zeros((1 + augment.DRAWS, self.steps, self.batch), dtype=torch.long, device=self.device)
        """Pictures of each step of the epoch, and the random numbers that change them."""
        self.step_in_epoch = torch.zeros(1, dtype=torch.long, device=self.device)
        """Steps done in this epoch."""
        self.steps_done = torch.zeros(1, dtype=torch.long, device=self.device)
        """Steps done since the beginning."""
        self.loss_sum = torch.zeros((), device=self.device)
        """Sum of the losses of this epoch's steps."""
        self._captured: torch.cuda.CUDAGraph | None = None
        self.restart(settings.epochs)

    def restart(self, epochs: int) -> None:
        """Begin again from new weights.

        Args:
            epochs: largest number of epochs, not more than in the settings that the trainer was made with.
        """
        self.settings = replace(self.settings, epochs=epochs)
        self.module.init(torch.Generator().manual_seed(self.settings.seed))
        rates = torch.tensor(_learning_rates(self.settings, self.steps), dtype=torch.float32)
        self.learning_rates[: len(rates)].copy_(rates)
        for value in (*self.momenta, self.step_in_epoch, self.steps_done, self.loss_sum):
            value.zero_()
        self.epochs: list[Epoch] = []
        self.best, self.best_state = -1, dict[str, Tensor]()
        self.began_s = time.perf_counter()

    def begin_epoch(self) -> None:
        """Shuffle the pictures and draw their changes, which depend on seed and epoch but not on the device."""
        random = np.random.default_rng((self.settings.seed, len(self.epochs)))
        count = self.steps * self.batch
        rows = self.training_rows[random.permutation(len(self.training_rows))[:count]]
        draws = augment.draw(random, count, self.image, self.settings.crop)
        plan = np.concatenate((rows[None], draws)).reshape(self.plan.shape)
        self.plan.copy_(torch.from_numpy(plan))
        self.step_in_epoch.zero_()
        self.loss_sum.zero_()
        if self.module.generator is not None:
            self.module.generator.manual_seed(self.settings.seed * 1_000_003 + len(self.epochs))
        self.module.train()
        self.began_s = time.perf_counter()

    def step(self) -> None:
        """Train on the next batch of the epoch, without a transfer from the device."""
        if self._captured is not None:
            self._captured.replay()
        else:
            self._step()

    def _step(self) -> None:
        rows, *draws = self.plan.index_select(1, self.step_in_epoch).squeeze(1)
        x = augment.augment(
            self.pictures.padded, rows, torch.stack(draws), self.scale, self.settings.crop, self.settings.cutout
        )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16, cache_enabled=False):
            outputs = self.module(x)
        labels = self.pictures.labels[rows]
        losses = torch.stack([F.cross_entropy(output.float(), labels) for output in outputs])
        gradients = list(torch.autograd.grad((losses * self.loss_weights).sum(), self.parameters))
        self._descend(gradients)
        self.loss_sum += (losses.detach() * self.loss_weights).sum()
        self.step_in_epoch += 1
        self.steps_done += 1

    @torch.no_grad()
    def _descend(self, gradients: list[Tensor]) -> None:
        """Descend with Nesterov's momentum (Sutskever et al., ICML 2013) and weight decay added to the gradients."""
        learning_rate = self.learning_rates.index_select(0, self.steps_done)
        decayed = [i for i, value in enumerate(self.parameters) if value.ndim > 1]
        _many._foreach_add_(
            [gradients[i] for i in decayed], [self.parameters[i] for i in decayed], alpha=self.settings.weight_decay
        )
        _many._foreach_mul_(self.momenta, self.settings.momentum)
        _many._foreach_add_(self.momenta, gradients)
        _many._foreach_add_(gradients, self.momenta, alpha=self.settings.momentum)
        _many._foreach_mul_(gradients, learning_rate.squeeze(0))
        _many._foreach_sub_(self.parameters, gradients)

    def capture(self) -> None:
        """Capture the step as a CUDA graph, which the GPU replays without a launch of every operation.

        The state is the same afterwards. Call it before the first epoch, or between two epochs.
        """
        before = {name: value.clone() for name, value in self._state().items()}
        self.begin_epoch()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_STEPS):
                self.step_in_epoch.zero_()
                self.steps_done.zero_()
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        captured = torch.cuda.CUDAGraph()
        if self.module.generator is not None:
            captured.register_generator_state(self.module.generator)
        with torch.cuda.graph(captured):
            self._step()
        self._restore(before)
        self._captured = captured

    def end_epoch(self) -> Epoch:
        """Measure the accuracy on the held-out pictures, and keep the weights if they are the best so far.

        Returns:
            The figures of the epoch, which are also the last of `epochs`.

        Raises:
            TrainingError: if the loss is not finite.
        """
        crop, (height, width) = self.settings.crop, (self.image.height, self.image.width)
        images = self.pictures.padded[self.holdout_rows, crop : crop + height, crop : crop + width]
        holdout = self.accuracy(images, self.pictures.labels[self.holdout_rows])
        loss = float(self.loss_sum) / self.steps
        if not np.isfinite(loss):
            raise TrainingError(
                f"{self.graph.name}: the loss is no number any more in epoch {len(self.epochs) + 1}; "
                f"train with a smaller learning rate than {self.settings.learning_rate:g}"
            )
        self.epochs.append(Epoch(loss, holdout, time.perf_counter() - self.began_s))
        if self.best < 0 or sum(holdout) > sum(self.epochs[self.best].holdout):
            self.best = len(self.epochs) - 1
            self.best_state = {name: value.clone() for name, value in self.module.state_dict().items()}
        return self.epochs[-1]

    @property
    def finished(self) -> bool:
        """Return whether all epochs are done, or the last `patience` ones brought no better one."""
        return len(self.epochs) >= min(self.settings.epochs, self.best + 1 + self.settings.patience)

    def accuracy(self, images: Tensor, labels: Tensor) -> tuple[float, ...]:
        """Return the accuracy of each exit, in [0, 1], with the current weights.

        Args:
            images: uint8 [N, H, W, 3] on the device.
            labels: int64 [N] on the device.
        """
        return tuple((count_correct(self.module, self.image, images, labels).double() / len(labels)).tolist())

    def result(self) -> ExitTrainingResult:
        """Return the network of the best epoch, with its batch norms folded; needs one finished epoch."""
        self.module.load_state_dict(self.best_state)
        return ExitTrainingResult(self.module.graph(), tuple(self.epochs), self.best, self.settings)

    def _state(self) -> dict[str, Tensor]:
        """Return all tensors that a step changes, by their names in a checkpoint."""
        momenta = {f"momentum.{i}": value for i, value in enumerate(self.momenta)}
        module = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        return module | momenta | {"done": self.steps_done, "place": self.step_in_epoch, "loss": self.loss_sum}

    @torch.no_grad()
    def _restore(self, state: dict[str, Tensor]) -> None:
        for name, value in self._state().items():
            value.copy_(state[name])

    def save(self, path: Path) -> None:
        """Write a checkpoint, as a file that is complete or absent.

        Args:
            path: the file to write or replace; call this between two epochs.

        Raises:
            OSError: if the file cannot be written.
        """
        state = {name: value.detach().contiguous().cpu() for name, value in self._state().items()}
        state |= {f"best.{name}": value.contiguous().cpu() for name, value in self.best_state.items()}
        about = {"format": checkpoints.FORMAT, "epochs": self.epochs, "best": self.best, "made_of": self._fingerprint()}
        write_atomically(path, state, {"coinfer": json.dumps(about)})

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        Args:
            path: a file that `save` wrote, with the same settings except `device` and `patience`.

        Raises:
            TrainingError: if the file is damaged or of another training.
        """
        about, state = checkpoints.read(
            path, self._fingerprint(), self.device, what="exits", remedy="train anew in another folder"
        )
        self._restore(state)
        self.epochs = [Epoch(loss, tuple(holdout), seconds) for loss, holdout, seconds in about["epochs"]]
        self.best = about["best"]
        self.best_state = {
            name.removeprefix("best."): value for name, value in state.items() if name.startswith("best.")
        }

    def _fingerprint(self) -> dict[str, object]:
        """Return the settings that must be the same when a checkpoint is loaded."""
        settings = {key: value for key, value in asdict(self.settings).items() if key not in ("device", "patience")}
        sizes = {"network": self.graph.fingerprint, "pictures": len(self.pictures.labels), "data": self.kind}
        return settings | sizes


@torch.no_grad()
def count_correct(module: GraphModule, image: ImageInput, images: Tensor, labels: Tensor) -> Tensor:
    """Return the number of correctly classified pictures of each exit, int64 [E].

    Args:
        module: the network, which is set to evaluation mode; it computes in float32.
        image: the network's input.
        images: uint8 [N, H, W, 3] on the module's device.
        labels: int64 [N] on the same device.
    """
    module.eval()
    scale = augment.channel_scale(image, images.device)
    correct = torch.zeros(len(module.source.outputs), dtype=torch.long, device=images.device)
    for batch, truth in zip(images.split(_EVALUATION_BATCH), labels.split(_EVALUATION_BATCH), strict=True):
        outputs = module(augment.normalise(batch, scale))
        correct += torch.stack([(output.argmax(1) == truth).sum() for output in outputs])
    return correct


def _learning_rates(settings: ExitSettings, steps: int) -> npt.NDArray[np.float64]:
    """Return the learning rate of every step of all epochs."""
    total = steps * settings.epochs
    done = (np.arange(total) + 1) / total
    rising = done / max(settings.warmup_share, 1 / total)
    falling = 0.5 + 0.5 * np.cos(np.pi * np.clip((done - settings.warmup_share) / (1 - settings.warmup_share), 0, 1))
    return settings.learning_rate * np.minimum(rising, falling)


def _validate(graph: ModelGraph, data: ImageDataset, settings: ExitSettings) -> ImageInput:
    """Check that pictures and settings fit the network, and return its picture input."""
    image = picture_input(graph, data)
    if settings.weights and (len(settings.weights) != len(graph.outputs) or min(settings.weights) < 0):
        raise TrainingError(
            f"weights {list(settings.weights)} for {len(graph.outputs)} exits; expected one of at least 0 for each"
        )
    if len(data.labels) < 2 or settings.batch < 2 or settings.epochs < 1:
        raise TrainingError("expected at least 2 pictures, batches of at least 2 and 1 epoch")
    return image

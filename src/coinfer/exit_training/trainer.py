"""One training of all exits of a network, step by step; `train` runs it to its end and says what it is.

All pictures lie on the device, and a step reads and writes tensors there only: on a GPU it is captured once and
replayed, so that the processor does not hold the GPU up.
"""

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from coinfer.checkpoint import write_atomically
from coinfer.errors import TrainingError
from coinfer.exit_training import augment
from coinfer.exit_training.modules import GraphModule
from coinfer.graph.ir import GraphError, ImageInput, ModelGraph
from coinfer.profile.dataset import ImageDataset, misfit

_FORMAT = 1
_EVALUATION_BATCH = 1000
_WARM_STEPS = 3
_many: Any = torch
"""The operations on many tensors at once, which PyTorch does not declare to type checkers."""


@dataclass(frozen=True)
class ExitSettings:
    """How exits are trained."""

    epochs: int = 60
    batch: int = 128
    """Pictures of a step."""
    learning_rate: float = 0.05
    """Largest learning rate."""
    warmup_share: float = 0.1
    """Share of the steps in which the learning rate rises; then it falls to 0 along a cosine."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    """Weight decay of parameters with two or more axes."""
    weights: tuple[float, ...] = ()
    """Weight of each exit's loss; equal if empty."""
    holdout: float = 0.05
    """Share of the pictures that is not trained on and chooses the best epoch."""
    patience: int = 30
    """Training ends after so many epochs without a better one."""
    crop: int = 4
    """Pixels by which a picture is shifted at most."""
    cutout: int = 8
    """Side of the square that is cut out of each picture, pixels."""
    seed: int = 0
    """Of weights, order and changes of pictures."""
    device: str = "cpu"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the convolutions and linear layers; weights and sums stay float32. `auto` takes bfloat16 if the processor
    multiplies it."""


class Epoch(NamedTuple):
    """What one epoch came to."""

    loss: float
    """Mean over the steps."""
    holdout: tuple[float, ...]
    """Accuracy of each exit on the pictures held out."""
    seconds: float


class ExitTrainingResult(NamedTuple):
    """The best epoch's network, and how it came about."""

    graph: ModelGraph
    epochs: tuple[Epoch, ...]
    best: int
    """Index of the epoch that it is from."""
    settings: ExitSettings


class Pictures(NamedTuple):
    """A data set on a device; several trainings may share it."""

    padded: Tensor
    """uint8 [N, H + 2 crop, W + 2 crop, 3]."""
    labels: Tensor
    """[N]"""

    @staticmethod
    def of(data: ImageDataset, settings: ExitSettings) -> "Pictures":
        """Return the data set on the settings' device, padded for its crops."""
        return Pictures(*_on(_device(settings.device), augment.pad(data.images, settings.crop), data.labels))


class Trainer:
    """One training, epoch by epoch. Several may share a GPU, each on its own stream.

    Args:
        pictures: `data` if it is on the device already.

    Raises:
        GraphError: if the network does not say how it takes pictures, or cannot be trained.
        TrainingError: if pictures or settings do not fit the network.
    """

    def __init__(
        self, graph: ModelGraph, data: ImageDataset, settings: ExitSettings, pictures: Pictures | None = None
    ) -> None:
        self.settings, self.device = settings, _device(settings.device)
        self.image = _checked(graph, data, settings)
        self.scale = augment.scale_of(self.image, self.device)
        self.graph, self.kind = graph, data.kind
        self.exits = len(graph.outputs)
        self.bfloat16 = _bfloat16(settings.precision, self.device)
        self.pictures = pictures or Pictures.of(data, settings)
        order = np.random.default_rng(settings.seed).permutation(len(data.labels))
        held = max(1, round(settings.holdout * len(order)))
        self.holdout_rows, self.training_rows = torch.from_numpy(order[:held]).to(self.device), np.sort(order[held:])
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
        """Of this epoch: which pictures each step takes, and what is done to them."""
        self.step_in_epoch = torch.zeros(1, dtype=torch.long, device=self.device)
        """The step within the epoch."""
        self.steps_done = torch.zeros(1, dtype=torch.long, device=self.device)
        """Steps since the beginning."""
        self.loss_sum = torch.zeros((), device=self.device)
        self._captured: Any = None
        self.restart(settings.epochs)

    def restart(self, epochs: int) -> None:
        """Begin from new weights; `epochs` may be fewer than before, not more."""
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
        """Shuffle, and draw what is done to the pictures; the same for the same seed and epoch on every device."""
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
        """Train on one batch; reads nothing back from the device."""
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
            answers = self.module(x)
        labels = self.pictures.labels[rows]
        losses = torch.stack([F.cross_entropy(answer.float(), labels) for answer in answers])
        gradients = list(torch.autograd.grad((losses * self.loss_weights).sum(), self.parameters))
        self._descend(gradients)
        self.loss_sum += (losses.detach() * self.loss_weights).sum()
        self.step_in_epoch += 1
        self.steps_done += 1

    @torch.no_grad()
    def _descend(self, gradients: list[Tensor]) -> None:
        """Gradient descent with Nesterov's momentum (Sutskever et al., ICML 2013), decay added to the gradient."""
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
        """Capture the step as a CUDA graph, which a GPU repeats without being sent every operation again."""
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
        """Judge the epoch on the pictures held out, and keep its weights if it is the best so far.

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
        """Whether the last epoch is over, or `patience` epochs went by without a better one."""
        return len(self.epochs) >= min(self.settings.epochs, self.best + 1 + self.settings.patience)

    def accuracy(self, images: Tensor, labels: Tensor) -> tuple[float, ...]:
        """Return the share of right answers of each exit; pictures uint8 [N, H, W, 3]."""
        return tuple((correct_answers(self.module, self.image, images, labels).double() / len(labels)).tolist())

    def result(self) -> ExitTrainingResult:
        """Return the best epoch's network, its batch norms folded."""
        self.module.load_state_dict(self.best_state)
        return ExitTrainingResult(self.module.graph(), tuple(self.epochs), self.best, self.settings)

    def _state(self) -> dict[str, Tensor]:
        """Everything that a step changes."""
        momenta = {f"momentum.{i}": value for i, value in enumerate(self.momenta)}
        module = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        return module | momenta | {"done": self.steps_done, "place": self.step_in_epoch, "loss": self.loss_sum}

    @torch.no_grad()
    def _restore(self, state: dict[str, Tensor]) -> None:
        for name, value in self._state().items():
            value.copy_(state[name])

    def save(self, path: Path) -> None:
        """Write all that resuming needs, in one file that is there wholly or not at all."""
        state = {name: value.detach().contiguous().cpu() for name, value in self._state().items()}
        state |= {f"best.{name}": value.contiguous().cpu() for name, value in self.best_state.items()}
        about = {"format": _FORMAT, "epochs": self.epochs, "best": self.best, "made_of": self._fingerprint()}
        write_atomically(path, state, {"coinfer": json.dumps(about)})

    def load(self, path: Path) -> None:
        """Take over what `save` wrote.

        Raises:
            TrainingError: if the file is damaged or of another training.
        """
        try:
            with safe_open(path, "pt", device=str(self.device)) as file:
                about = json.loads((file.metadata() or {})["coinfer"])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise TrainingError(f"{path}: no checkpoint of exits ({error}); train anew in another folder") from None
        if about.get("format") != _FORMAT:
            raise TrainingError(f"{path}: checkpoint of format {about.get('format')}; this coinfer reads {_FORMAT}")
        mine = json.loads(json.dumps(self._fingerprint()))
        other = [key for key, value in mine.items() if about["made_of"].get(key) != value]
        if other:
            key = other[0]
            found = about["made_of"].get(key)
            raise TrainingError(f"{path}: made with {key} {found}, now it is {mine[key]}; train anew in another folder")
        self._restore(state)
        self.epochs = [Epoch(loss, tuple(holdout), seconds) for loss, holdout, seconds in about["epochs"]]
        self.best = about["best"]
        self.best_state = {
            name.removeprefix("best."): value for name, value in state.items() if name.startswith("best.")
        }

    def _fingerprint(self) -> dict[str, Any]:
        """What must not change between a checkpoint and going on."""
        settings = {key: value for key, value in asdict(self.settings).items() if key not in ("device", "patience")}
        sizes = {"network": self.graph.fingerprint, "pictures": len(self.pictures.labels), "data": self.kind}
        return settings | sizes


@torch.no_grad()
def correct_answers(module: GraphModule, image: ImageInput, images: Tensor, labels: Tensor) -> Tensor:
    """Return the right answers of each exit [E], in float32, of the module in evaluation mode.

    Args:
        images: uint8 [N, H, W, 3].
        labels: [N] int64.
    """
    module.eval()
    scale = augment.scale_of(image, images.device)
    found = torch.zeros(len(module.source.outputs), dtype=torch.long, device=images.device)
    for some, truth in zip(images.split(_EVALUATION_BATCH), labels.split(_EVALUATION_BATCH), strict=True):
        answers = module(augment.normalised(some, scale))
        found += torch.stack([(answer.argmax(1) == truth).sum() for answer in answers])
    return found


def _learning_rates(settings: ExitSettings, steps: int) -> np.ndarray:
    """Learning rate of every step."""
    total = steps * settings.epochs
    at = (np.arange(total) + 1) / total
    rising = at / max(settings.warmup_share, 1 / total)
    falling = 0.5 + 0.5 * np.cos(np.pi * np.clip((at - settings.warmup_share) / (1 - settings.warmup_share), 0, 1))
    return settings.learning_rate * np.minimum(rising, falling)


def _checked(graph: ModelGraph, data: ImageDataset, settings: ExitSettings) -> ImageInput:
    """How the network takes pictures."""
    if graph.image is None:
        raise GraphError(f"{graph.name} does not say how it takes pictures; exits are trained on pictures")
    if found := misfit(graph, graph.image, data):
        raise TrainingError(found[0])
    if settings.weights and (len(settings.weights) != len(graph.outputs) or min(settings.weights) < 0):
        raise TrainingError(
            f"weights {list(settings.weights)} for {len(graph.outputs)} exits; expected one of at least 0 for each"
        )
    if len(data.labels) < 2 or settings.batch < 2 or settings.epochs < 1:
        raise TrainingError("expected at least 2 pictures, batches of at least 2 and 1 epoch")
    return graph.image


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(f"device {name!r}: {str(error).splitlines()[0]}") from None


def _bfloat16(precision: str, device: torch.device) -> bool:
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = Path("/proc/cpuinfo")
    return flags.exists() and "amx_bf16" in flags.read_text(encoding="utf-8", errors="replace")


def _on(device: torch.device, images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)

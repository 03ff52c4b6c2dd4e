"""Settings and results of a training of exits."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from coinfer.graph.ir import ModelGraph

PRECISIONS = ("auto", "float32", "bfloat16")
"""Number types of convolutions and linear layers; `auto` takes bfloat16 if the processor multiplies it."""


@dataclass(frozen=True)
class ExitSettings:
    """How to train the exits of a network."""

    epochs: int = 60
    """Largest number of epochs."""
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
    """Weight of each exit's loss; if empty, all have the same."""
    holdout: float = 0.05
    """Share of the pictures that is held out from training and chooses the best epoch."""
    patience: int = 30
    """Epochs without a better one after which training ends."""
    crop: int = 4
    """Largest shift of a picture in pixels."""
    cutout: int = 8
    """Side in pixels of the square that is cut out of each picture."""
    seed: int = 0
    """Seed of weights, order and changes of the pictures."""
    device: str = "cpu"
    """PyTorch device."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number type of convolutions and linear layers; weights and sums stay float32. `auto` takes bfloat16 if the
    processor multiplies it."""


class Epoch(NamedTuple):
    """Figures of an epoch."""

    loss: float
    """Mean loss of the steps."""
    holdout: tuple[float, ...]
    """Accuracy of each exit on the held-out pictures, in [0, 1]."""
    seconds: float


class ExitTrainingResult(NamedTuple):
    """The network of the best epoch, with the figures of all epochs."""

    graph: ModelGraph
    epochs: tuple[Epoch, ...]
    best: int
    """Index of the best epoch."""
    settings: ExitSettings

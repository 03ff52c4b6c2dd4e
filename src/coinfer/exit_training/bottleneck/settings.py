"""Settings and results of a training of a bottleneck."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from coinfer.graph.ir import ModelGraph


@dataclass(frozen=True)
class BottleneckSettings:
    """How to train a bottleneck."""

    channels: tuple[int, ...] = (4, 8, 16)
    """Channels of each nested code, rising: a code is the first channels of the next one."""
    bits: int = 2
    """Bits of each symbol before entropy coding, 2 to 8."""
    device_share: float = 0.1
    """Arithmetic up to the code over that of the whole network, at most."""
    width: int = 96
    """Channels inside the decoder."""
    epochs: int = 20
    """Number of epochs."""
    batch: int = 96
    """Pictures of a step, shared by the codes."""
    learning_rate: float = 2e-3
    """Largest learning rate of encoder and decoder."""
    tail_rate: float = 0.1
    """Learning rate of the layers behind the decoder over that of the decoder; 0 keeps them as they are."""
    warmup_share: float = 0.05
    """Share of the steps in which the learning rate rises; then it falls to 0 along a cosine."""
    weight_decay: float = 1e-4
    """Weight decay (decoupled) of parameters with two or more axes."""
    temperature: float = 2.0
    """Temperature of the distillation."""
    label_weight: float = 0.3
    """Weight of the labels' cross entropy beside the distillation; 0 uses no labels."""
    feature_weight: float = 0.5
    """Weight of the squared error of the tensor that the decoder replaces, relative to its variance."""
    rate_weight: float = 0.0
    """Weight of the code's estimated size, in kilobits."""
    holdout: float = 0.05
    """Share of the pictures that is held out from training."""
    crop: int = 4
    """Largest shift of a picture in pixels."""
    cutout: int = 0
    """Side in pixels of the square that is cut out of each picture."""
    mixup: float = 0.0
    """Share of the pictures that are mixed with another one (mixup, Zhang et al. 2018), for the teacher as well (as a
    patient distillation does it, Beyer et al. 2022)."""
    seed: int = 0
    """Seed of weights, order and changes of the pictures."""
    start: str = ""
    """Fingerprint of the earlier training's checkpoint with whose weights it begins; empty for new ones."""
    device: str = "cpu"
    """PyTorch device."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number type of convolutions and linear layers; `auto` takes bfloat16 if the processor multiplies it."""

    @property
    def levels(self) -> int:
        """Return the number of values of a symbol."""
        return 2**self.bits


class Place(NamedTuple):
    """Where a bottleneck goes."""

    source: str
    """Tensor that the encoder reads: the network's input, or one that the device computes first."""
    target: str
    """Tensor that the decoder replaces."""
    output: str
    """Last output of the network; the bottleneck also answers for the exits before it that follow from the target."""


class BottleneckEpoch(NamedTuple):
    """Figures of an epoch."""

    loss: float
    """Mean loss of the steps."""
    holdout: tuple[float, ...]
    """Share of the held-out pictures that the last exit answers rightly from each code, in [0, 1]."""
    size_bits: tuple[float, ...]
    """Mean size of each code by the trained prior."""
    seconds: float


class BottleneckResult(NamedTuple):
    """A bottleneck, and how it was trained."""

    graph: ModelGraph
    """Its own network: encoder, symbols, and for each code a decoder and the rest of the network."""
    outputs: tuple[str, ...]
    """Outputs of the untouched network that it answers for, the earliest exit first."""
    place: Place
    epochs: tuple[BottleneckEpoch, ...]
    settings: BottleneckSettings
    rows: np.ndarray
    """Indices of the pictures that it was trained on."""

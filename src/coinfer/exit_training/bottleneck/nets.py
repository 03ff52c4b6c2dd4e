"""Encoder, quantiser and decoder of a bottleneck as PyTorch modules.

The code is nested: each code is the first channels of the next one, so that one training gives several sizes.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL = 3
PICTURE_CHANNELS = 4
"""Channels of a picture at most; what has more are feature maps."""
FIRST_KERNEL = 5
FIRST_WIDTH = 16
"""Channels of the first convolution on a picture at most: its maps are large, so they take the most time."""
WIDTHS = (4, *range(8, 4096, 8))
"""Of an encoder. Many processors compute 16 channels at once: with other widths, 15 % of a network's arithmetic took
17 % of its time."""


class ConvShape(NamedTuple):
    """A convolution of an encoder on square feature maps."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    pads: tuple[int, int]
    """Zeros before and after, in both directions."""
    side: int
    """Height and width of its output."""

    @property
    def work_flop(self) -> float:
        """Return the arithmetic of one picture."""
        return 2.0 * self.inputs * self.outputs * self.kernel**2 * self.side**2


def encoder_shapes(channels: int, side: int, target_side: int, width: int, codes: int) -> tuple[ConvShape, ...]:
    """Return an encoder's convolutions: halvings down to the code's size, one more, and a 1 x 1 to the code.

    From feature maps, on which the network itself has worked, the halvings are enough if there are any.

    Args:
        channels: of its input.
        side: height and width of its input.
        target_side: height and width of the code.
        width: channels after the first convolution, but for `FIRST_WIDTH`; each halving doubles them.
        codes: channels of the code.
    """
    picture = channels <= PICTURE_CHANNELS
    halvings = max(round(math.log2(side / target_side)), 0)
    shapes, inputs, now = list[ConvShape](), channels, side
    for i in range(halvings):
        goal = target_side if i == halvings - 1 else -(-now // 2)
        first = picture and i == 0
        outputs = min(width, FIRST_WIDTH) if first else width * 2**i
        shapes.append(_conv_to(inputs, outputs, now, goal, FIRST_KERNEL if first else KERNEL))
        inputs, now = outputs, goal
    if picture or not halvings:
        shapes.append(_conv_to(inputs, max(inputs, width) if halvings else width, now, target_side, KERNEL))
    return (*shapes, ConvShape(shapes[-1].outputs, codes, 1, 1, (0, 0), target_side))


def _conv_to(inputs: int, outputs: int, side: int, goal: int, kernel: int) -> ConvShape:
    """Return a convolution between two sizes; its kernel grows where padding alone would not do."""
    stride = max(side // goal, 1)
    missing = (goal - 1) * stride + kernel - side
    if missing < 0:
        kernel, missing = kernel - missing, 0
    return ConvShape(inputs, outputs, kernel, stride, (missing // 2, missing - missing // 2), goal)


def encoder_width(channels: int, side: int, target_side: int, codes: int, flop: float) -> int:
    """Return the largest of `WIDTHS` with which an encoder's arithmetic stays within a budget.

    Args:
        channels: of its input.
        side: height and width of its input.
        target_side: height and width of the code.
        codes: channels of the code.
        flop: the budget; the smallest width is returned if even that exceeds it.
    """

    def fits(width: int) -> bool:
        return sum(s.work_flop for s in encoder_shapes(channels, side, target_side, width, codes)) <= flop

    return max((*WIDTHS[:1], *itertools.takewhile(fits, WIDTHS)))


class Encoder(nn.Module):
    """Maps a tensor to unrounded symbols.

    Args:
        shapes: what `encoder_shapes` returned.
        levels: number of values of a symbol.
    """

    def __init__(self, shapes: Sequence[ConvShape], levels: int) -> None:
        super().__init__()
        self.shapes, self.levels = tuple(shapes), levels
        self.convs = nn.ModuleList(nn.Conv2d(s.inputs, s.outputs, s.kernel, s.stride, bias=False) for s in shapes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(s.outputs) for s in shapes)
        last = self.norms[-1]
        assert isinstance(last, nn.BatchNorm2d)
        nn.init.constant_(last.weight, levels / 4)
        nn.init.constant_(last.bias, (levels - 1) / 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return symbols before rounding, [N, C, side, side], clipped to 0 .. levels - 1.

        Args:
            x: [N, channels, height, width].
        """
        for i, (shape, conv, norm) in enumerate(zip(self.shapes, self.convs, self.norms, strict=True)):
            before, after = shape.pads
            x = norm(conv(F.pad(x, (before, after, before, after)) if before or after else x))
            x = F.relu(x) if i < len(self.shapes) - 1 else x
        return x.float().clip(0, self.levels - 1)


def rounded(symbols: Tensor) -> Tensor:
    """Return rounded symbols, with the gradient of the unrounded ones (straight-through estimate; Bengio et al. 2013).

    Args:
        symbols: any shape.
    """
    return symbols + (symbols.round() - symbols).detach()


class Prior(nn.Module):
    """A distribution of the symbols of each channel, which estimates the size of a code while training.

    Args:
        channels: of the whole code.
        levels: number of values of a symbol.
    """

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(channels, levels))

    def forward(self, symbols: Tensor) -> Tensor:
        """Return the bits of each symbol, [N, C, ..]; between two levels they are interpolated, which has a gradient.

        Args:
            symbols: [N, C, ..] unrounded, from 0 to levels - 1; no number has bits that are none either.
        """
        costs = -F.log_softmax(self.logits, 1) / math.log(2)
        low = symbols.detach().nan_to_num().floor().clip(max=self.logits.shape[1] - 2).long()
        channel = torch.arange(symbols.shape[1], device=symbols.device)[None, :, None, None]
        share = symbols - low
        return costs[channel, low] * (1 - share) + costs[channel, low + 1] * share


class Decoder(nn.Module):
    """Maps rounded symbols to the tensor that the rest of the network reads.

    Args:
        channels: of each nested code.
        levels: number of values of a symbol.
        width: channels inside.
        outputs: channels of the tensor that it replaces.
    """

    def __init__(self, channels: Sequence[int], levels: int, width: int, outputs: int) -> None:
        super().__init__()
        self.channels, self.center = tuple(channels), (levels - 1) / 2
        self.stems = nn.ModuleList(nn.Conv2d(count, width, KERNEL, padding=1, bias=False) for count in channels)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in channels)
        self.inner = nn.ModuleList(nn.Conv2d(width, width, KERNEL, padding=1) for _ in range(2))
        self.last = nn.Conv2d(width, outputs, KERNEL, padding=1)
        second = self.inner[1]
        assert isinstance(second, nn.Conv2d)
        nn.init.zeros_(second.weight)

    def forward(self, symbols: Tensor, code: int) -> Tensor:
        """Return the tensor that replaces the network's own, [N, outputs, side, side].

        Args:
            symbols: [N, C, side, side] rounded; only the code's channels are read.
            code: index of the nested code.
        """
        x = symbols[:, : self.channels[code]] - self.center
        x = F.relu(self.norms[code](self.stems[code](x)))
        x = F.relu(x + self.inner[1](F.relu(self.inner[0](x))))
        return self.last(x)

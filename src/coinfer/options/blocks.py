"""A network as blocks that are placed one by one (multi-task A3C, IEEE TMC 2024)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from coinfer.options.chain import Encoding, Speed
from coinfer.options.network import ChainCut


class Blocks(NamedTuple):
    """The blocks of one exit's network, M of them."""

    cuts: tuple[int, ...]
    """[M + 1] indices of the cuts between them, with both ends."""
    input_bits: np.ndarray
    """[M] size of each block's input."""


def blocks_of(cuts: Sequence[ChainCut], count: int, encoding: Encoding) -> Blocks:
    """Return blocks of equal arithmetic, as far as the cuts allow.

    Args:
        cuts: of one exit's chain.
        count: of blocks.
        encoding: how each block's input is sent; the first of its allowed numbers of bits counts.

    Raises:
        ValueError: if the chain has fewer blocks.
        SizeError: if a size was not measured.
    """
    chosen = even_blocks(cuts, count)
    sizes_bits = [encoding.sizes_bits(cuts[i], is_input=i == 0) for i in chosen[:-1]]
    return Blocks(chosen, np.array([next(iter(sizes.values())) for sizes in sizes_bits]))


def block_times_s(speed: Speed, exit_: int, cuts: Sequence[int]) -> np.ndarray:
    """Return the time [M] of each block.

    Args:
        speed: of the computer.
        exit_: index of the exit whose chain the cuts belong to.
        cuts: [M + 1] indices of the cuts between the blocks, with both ends.
    """
    return np.array([speed.segment_s(exit_, first, last) for first, last in pairwise(cuts)])


def even_blocks(cuts: Sequence[ChainCut], blocks: int) -> tuple[int, ...]:
    """Return the indices [blocks + 1] of the cuts that keep the largest block as small as possible.

    Args:
        cuts: of one exit's chain.
        blocks: number of blocks.

    Raises:
        ValueError: if the chain has fewer blocks.
    """
    return even_cuts(np.array([cut.done_flop for cut in cuts]), blocks)


def even_cuts(flop: np.ndarray, blocks: int) -> tuple[int, ...]:
    """Return the indices [blocks + 1] of the cuts that keep the largest block as small as possible.

    Args:
        flop: [C] arithmetic before each cut, from the input to the output.
        blocks: number of blocks.

    Raises:
        ValueError: if the cuts make fewer blocks.
    """
    if blocks >= len(flop):
        raise ValueError(f"has {len(flop) - 1} blocks at most")
    order = np.arange(len(flop))
    worst = np.where(order > 0, flop - flop[0], np.inf)
    before: list[np.ndarray] = []
    for _ in range(blocks - 1):
        heaviest = np.maximum(worst[:, None], flop[None, :] - flop[:, None])
        heaviest[order[:, None] >= order] = np.inf
        before.append(heaviest.argmin(axis=0))
        worst = heaviest.min(axis=0)
    chosen = [len(flop) - 1]
    for previous in reversed(before):
        chosen.append(int(previous[chosen[-1]]))
    return (0, *reversed(chosen))

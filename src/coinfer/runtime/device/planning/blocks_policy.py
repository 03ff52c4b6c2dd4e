"""A trained policy that places every block of a network (`blocks`), and the blocks of a device's network for it."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from typing_extensions import TypeIs

from coinfer.graph.ir import ModelGraph
from coinfer.options.blocks import even_cuts
from coinfer.options.table import Names, Options
from coinfer.policies.onnx import ExportedPolicy, PolicyError, kind_of, load_policy, shipped_path
from coinfer.profile.table import ProfileTable, too_large
from coinfer.runtime.device.planning.message_size import between_bits
from coinfer.units import FLOAT32_BITS

KIND = "blocks"
BLOCKS = 6
"""Blocks for a policy that takes any number of them."""


def is_blocks_file(policy: object) -> TypeIs[str | Path]:
    """Return true if the policy of a device's settings is a file of one that places blocks.

    Args:
        policy: a function, a loaded policy, a file, or None.
    """
    return isinstance(policy, str | Path) and kind_of(shipped_path(policy)) == KIND


class PlacedBlocks(NamedTuple):
    """A policy and what it places: M blocks of equal arithmetic, as far as cuts allow."""

    policy: ExportedPolicy
    cuts: tuple[Names, ...]
    """[M + 1] tensors between the blocks, with the inputs and the outputs."""
    block_s: np.ndarray
    """[M] the profiled machine's time for each block."""
    input_bits: np.ndarray
    """[M] size of each block's input."""
    bits: int
    """Per element of what is sent."""
    tasks: int
    """K, of which only the first one exists."""

    @property
    def name(self) -> str:
        """Return the scheme that trained the policy."""
        return str(self.policy.sidecar["scheme"])


def load_blocks_policy(
    policy: object,
    graph: ModelGraph,
    table: ProfileTable,
    exits: Sequence[Names],
    servers: int,
    allowed_bits: Sequence[int] | None,
) -> PlacedBlocks | None:
    """Return the policy of a file for a network and a number of servers; None if it is no policy for blocks.

    Args:
        policy: the setting of the device.
        graph: the network.
        table: measured times of the network.
        exits: outputs of each exit.
        servers: N
        allowed_bits: per element of what is sent; None leaves it to the planner.

    Raises:
        PolicyError: if the file is damaged, or was made for other numbers of blocks or servers; one line.
    """
    if not is_blocks_file(policy):
        return None
    loaded = load_policy(policy, kind=KIND)
    if len(exits) > 1:
        raise PolicyError(f"{policy}: places the blocks of networks that answer once; {graph.name} has exits")
    sizes, bits = loaded.sidecar["sizes"], between_bits(allowed_bits)
    cuts = _block_cuts(graph, table, sizes.get("M") or BLOCKS, bits, str(policy))
    tasks = sizes.get("K") or 1
    loaded.check_places(len(cuts) - 1, servers, tasks)
    return PlacedBlocks(
        loaded,
        cuts,
        np.array([table.segment_s(graph, *piece) for piece in pairwise(cuts)]),
        np.array([sent_bits(graph, table, cut, bits) for cut in cuts[:-1]]),
        bits,
        tasks,
    )


def with_blocks(options: Options, blocks: PlacedBlocks, every: Options) -> Options:
    """Return a device's options with a cut before each block.

    Args:
        options: what the planner chooses from.
        blocks: that a policy places.
        every: all options with the blocks' bits.
    """
    known, cuts = set(options.triples), set(blocks.cuts)
    new = every.take(np.array([triple not in known and triple[1] in cuts for triple in every.triples]))
    return Options(
        cuts=new.cuts + options.cuts,
        bits=np.concatenate([new.bits, options.bits]),
        exit=np.concatenate([new.exit, options.exit]),
        device_s=np.concatenate([new.device_s, options.device_s]),
        upload_bits=np.concatenate([new.upload_bits, options.upload_bits]),
        server_s=np.concatenate([new.server_s, options.server_s]),
        accuracy=np.concatenate([new.accuracy, options.accuracy]),
        outputs=new.outputs + options.outputs,
    )


def sent_bits(graph: ModelGraph, table: ProfileTable, names: Names, bits: int) -> float:
    """Return the size of tensors as a device sends them.

    Args:
        graph: the network.
        table: with what was measured of it.
        names: of the tensors.
        bits: per element.
    """
    measured = table.size_bits(graph, names, bits)
    return float(sum(graph.tensors[name].elements for name in names) * bits) if measured is None else measured


def keeps_answers(graph: ModelGraph, table: ProfileTable, cut: Names, bits: int) -> bool:
    """Return false for a cut between servers that fits into no message, or may change answers where they are to be
    exact.

    Args:
        graph: the network.
        table: with what is known of the cut.
        cut: names of the tensors that cross it.
        bits: per element of what is sent; 32 asks for exact answers.
    """
    is_exact = bits == FLOAT32_BITS and bool(table.cut_checks)
    return not too_large(graph, cut) and not (is_exact and table.difference(cut, graph.outputs) != 0)


def _block_cuts(graph: ModelGraph, table: ProfileTable, count: int, bits: int, path: str) -> tuple[Names, ...]:
    useful = graph.useful_cuts()
    last = len(useful) - 1
    open_ = [i for i, cut in enumerate(useful) if i in (0, last) or keeps_answers(graph, table, cut.tensors, bits)]
    done_flop = np.concatenate([[0.0], np.cumsum([op.work_flop for op in graph.ops])])
    try:
        chosen = even_cuts(done_flop[[len(useful[i].head) for i in open_]], count)
    except ValueError as error:
        raise PolicyError(f"{path}: made for {count} blocks; {graph.name} {error}") from None
    names = [useful[open_[i]].tensors for i in chosen]
    return (*names[:-1], graph.outputs)

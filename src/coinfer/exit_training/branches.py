"""The network to train: as it is, with new branches, or without its early exits."""

from collections.abc import Sequence
from dataclasses import replace

from coinfer.errors import UserError
from coinfer.graph.ir import ModelGraph
from coinfer.graph.zoo.early_exits import with_exits

DEFAULT_BRANCHES = 2
"""Branches that a network without exits gets if no places are named."""


def branched_network(graph: ModelGraph, places: Sequence[str | int], classes: int) -> ModelGraph:
    """Return a network with exits: as it is if it has several outputs, otherwise with branches.

    Args:
        graph: the network.
        places: names of tensors or numbers of blocks after which branches go; empty for equal parts of the work.
        classes: of the pictures.

    Raises:
        UserError: if places are named for a network that has exits already.
        GraphError: if a place does not exist, or the network does not fit the classes.
    """
    if len(graph.outputs) == 1:
        return with_exits(graph, list(places) or _equal_parts(graph), classes)
    if places:
        at = ",".join(map(str, places))
        raise UserError(f"--at {at!r}: {graph.name} has exits already; leave it out")
    return graph


def plain_network(graph: ModelGraph) -> ModelGraph:
    """Return a network with its last exit only, under a name of its own.

    Args:
        graph: a network with one output is returned as it is.
    """
    return replace(graph.pruned(graph.outputs[-1:]), name=f"{graph.name}-plain") if len(graph.outputs) > 1 else graph


def _equal_parts(graph: ModelGraph) -> list[str | int]:
    """Return the ends of the blocks after which about a third and two thirds of the work are done."""
    cuts = graph.useful_cuts()
    inner = [i for i in range(1, len(cuts) - 1) if len(cuts[i].tensors) == 1]
    done = {i: sum(graph.ops[op].work_flop for op in cuts[i].head) / graph.work_flop for i in inner}
    shares = [(k + 1) / (DEFAULT_BRANCHES + 1) for k in range(DEFAULT_BRANCHES)]
    return sorted({min(inner, key=lambda i: abs(done[i] - share)) for share in shares})

"""A profile table without measuring: seconds from arithmetic, sizes from elements. And an accuracy table likewise."""

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.profile.accuracy import AccuracyRow, AccuracyTable
from coinfer.profile.fields import Machine
from coinfer.profile.table import ProfileTable

WIDTHS = (32, 16, 12, 8, 4)


def analytic_table(graph: ModelGraph, whole_s: float = 0.2) -> ProfileTable:
    """A machine that takes `whole_s` for the network, its time spread by arithmetic; every tensor is a little smaller
    than the one before it, so that many cuts are best at some link rate."""
    work = np.array([op.work_flop for op in graph.ops]) + 1.0
    names = list(graph.tensors)
    return ProfileTable(
        model=graph.name,
        fingerprint=graph.fingerprint,
        machine=Machine(cpu="none", cores=1, os="none", python="3", onnxruntime="1", date="2026-01-01T00:00:00Z"),
        threads=1,
        work_flop=graph.work_flop,
        whole_s=whole_s,
        whole_spread_s=0.0,
        call_s=0.0,
        op_s=tuple((work / work.sum() * whole_s).tolist()),
        enter_s=dict.fromkeys(names, 0.0),
        leave_s=dict.fromkeys(names, 0.0),
        payload_bits={name: {width: 1e3 * 0.7**i * (width + 32) for width in WIDTHS} for i, name in enumerate(names)},
        encode_s_per_byte=dict.fromkeys(WIDTHS, 1e-10),
        decode_s_per_byte=dict.fromkeys(WIDTHS, 1e-10),
    )


def made_up_accuracy(graph: ModelGraph, samples: int = 1000) -> AccuracyTable:
    """An accuracy table without data: later exits are better, fewer bits and earlier cuts worse."""
    exits = tuple(700 + 40 * i for i in range(len(graph.outputs)))
    rows = [
        AccuracyRow(exit=exit_, cut=cut.tensors, bits=width, correct=exits[exit_] - 20 * (4 - i % 5) // width - i)
        for exit_, output in enumerate(graph.outputs)
        for i, cut in enumerate(graph.pruned((output,)).useful_cuts()[1:-1])
        for width in (16, 12, 8, 4)
    ]
    return AccuracyTable(
        model=graph.name,
        fingerprint=graph.fingerprint,
        dataset="made up",
        samples=samples,
        exits=exits,
        rows=tuple(rows),
    )

"""The widths that are offered without being asked for: exact ones, and lossy ones whose effect was measured."""

from collections.abc import Sequence

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.options.compile import DEFAULT_BITS, compile_options
from coinfer.options.table import Options
from coinfer.profile.accuracy import AccuracyTable
from coinfer.profile.table import ProfileTable
from coinfer.units import FLOAT32_BITS


def offered_options(
    graph: ModelGraph, table: ProfileTable, bits: Sequence[int] | None, accuracy: AccuracyTable | None
) -> Options:
    """Return the options from which a device chooses.

    Args:
        graph: the network.
        table: the network's profile.
        bits: allowed bits per element, whether they were measured or not; None allows 32 and 16, and the lossy widths
            that `accuracy` says to lose little.
        accuracy: what was measured of the network, if anything.

    Raises:
        ProfileError: as `compile_options`.
        AccuracyError: as `compile_options`.
    """
    if bits is not None:
        return compile_options(graph, table, bits, accuracy)
    measured = () if accuracy is None else sorted({row.bits for row in accuracy.rows if row.cut != graph.inputs})
    unmeasured = DEFAULT_BITS if accuracy is None or len(accuracy.exits) == 1 else (FLOAT32_BITS,)
    options = compile_options(graph, table, tuple(dict.fromkeys((*unmeasured, *measured))), accuracy)
    exact = options.is_local | (options.bits == FLOAT32_BITS) | np.array([cut == graph.inputs for cut in options.cuts])
    earned = np.array([accuracy is not None and accuracy.is_earned(*triple) for triple in options.triples])
    unknown = np.array([accuracy is None or not accuracy.has(*triple) for triple in options.triples])
    return options.take(exact | earned | (unknown & np.isin(options.bits, DEFAULT_BITS)))


def unmeasured_note(options: Options, accuracy: AccuracyTable | None, inputs: Sequence[str]) -> str:
    """Return what a person should know of lossy widths among the options that were never measured; empty if there is
    nothing.

    Args:
        options: that are offered.
        accuracy: what was measured of the network, if anything.
        inputs: names of the network's inputs.
    """
    lossy = [
        triple
        for triple, is_local in zip(options.triples, options.is_local.tolist(), strict=True)
        if not is_local and triple[1] != tuple(inputs) and triple[2] < FLOAT32_BITS
    ]
    unknown = sorted({bits for exit_, cut, bits in lossy if accuracy is None or not accuracy.has(exit_, cut, bits)})
    if not unknown:
        return ""
    names = " and ".join(map(str, unknown))
    return f"{names} bits were not measured on this network: `coinfer accuracy` does that, --bits 32 keeps it exact"

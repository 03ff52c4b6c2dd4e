"""The widths that are offered without being asked for: exact ones, and lossy ones whose effect was measured."""

from collections.abc import Sequence

import numpy as np

from coinfer.graph.bottleneck import Code, CodeAnswer
from coinfer.graph.ir import ModelGraph
from coinfer.options.compile import DEFAULT_BITS, compile_options
from coinfer.options.table import Options
from coinfer.profile.accuracy import MAX_LOSS, MIN_SAMPLES, AccuracyTable
from coinfer.profile.table import ProfileTable
from coinfer.units import FLOAT32_BITS


def offered_options(
    graph: ModelGraph,
    table: ProfileTable,
    bits: Sequence[int] | None,
    accuracy: AccuracyTable | None,
    *,
    all_codes: bool = False,
) -> Options:
    """Return the options from which a device chooses.

    Answers from codes of a bottleneck are among them if they lose little, as far as was measured, and the bits are not
    given; or if the code's bits are.

    Args:
        graph: the network.
        table: the network's profile.
        bits: allowed bits per element, whether they were measured or not; None allows 32 and 16, and the lossy widths
            that `accuracy` says to lose little.
        accuracy: what was measured of the network, if anything.
        all_codes: whether codes that lose more are among them too; whoever chooses must look at the accuracy.

    Raises:
        ProfileError: as `compile_options`.
        AccuracyError: as `compile_options`.
    """
    if bits is not None:
        return compile_options(graph, table, bits, accuracy, codes=_codes_of(graph, table, bits))
    measured = () if accuracy is None else sorted({row.bits for row in accuracy.rows if row.cut != graph.inputs})
    unmeasured = DEFAULT_BITS if accuracy is None or len(accuracy.exits) == 1 else (FLOAT32_BITS,)
    codes = [_offered(code, all_codes) for code in _codes_of(graph, table)]
    widths = tuple(dict.fromkeys((*unmeasured, *measured)))
    options = compile_options(graph, table, widths, accuracy, codes=codes)
    exact = options.is_local | (options.bits == FLOAT32_BITS) | np.array([cut == graph.inputs for cut in options.cuts])
    exact |= np.array([graph.part(cut) is not graph for cut in options.cuts])
    earned = np.array([accuracy is not None and accuracy.is_earned(*triple) for triple in options.triples])
    unknown = np.array([accuracy is None or not accuracy.has(*triple) for triple in options.triples])
    return options.take(exact | earned | (unknown & np.isin(options.bits, DEFAULT_BITS)))


def _offered(code: Code, every: bool) -> Code:
    """Return a code with the answers that lose little, or with all that were measured."""
    answers = (answer for answer in code.answers if answer.accuracy and (every or is_earned(answer)))
    return code.model_copy(update={"answers": tuple(answers)})


def is_earned(answer: CodeAnswer) -> bool:
    """Return true if an answer from a code was measured and loses little.

    Args:
        answer: of an exit from the code.
    """
    found = answer.accuracy
    return found is not None and found.samples >= MIN_SAMPLES and found.loss <= MAX_LOSS


def _codes_of(graph: ModelGraph, table: ProfileTable, bits: Sequence[int] | None = None) -> list[Code]:
    """Return the codes of a network's bottleneck that the profile knows, of some numbers of bits or of any."""
    if graph.bottleneck is None or table.bottleneck is None or not table.bottleneck.fits(graph):
        return []
    return [code for code in graph.bottleneck.codes if bits is None or code.bits in bits]


def unmeasured_note(options: Options, accuracy: AccuracyTable | None, graph: ModelGraph) -> str:
    """Return what a person should know of lossy widths among the options that were never measured; empty if there is
    nothing.

    Args:
        options: that are offered.
        accuracy: what was measured of the network, if anything.
        graph: the network.
    """
    lossy = [
        triple
        for triple, is_local in zip(options.triples, options.is_local.tolist(), strict=True)
        if not is_local and triple[1] != graph.inputs and triple[2] < FLOAT32_BITS and graph.part(triple[1]) is graph
    ]
    unknown = sorted({bits for exit_, cut, bits in lossy if accuracy is None or not accuracy.has(exit_, cut, bits)})
    if not unknown:
        return ""
    names = " and ".join(map(str, unknown))
    return f"{names} bits were not measured on this network: `coinfer accuracy` does that, --bits 32 keeps it exact"

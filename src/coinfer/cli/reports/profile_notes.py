"""What a profile says beside its tables: cuts that are left out, answers that cuts change, sizes that were measured."""

from collections.abc import Iterator

from coinfer.cli.reports.cut_name import cut_name
from coinfer.graph.ir import ModelGraph
from coinfer.profile.sizing import interpolation_error
from coinfer.profile.table import ProfileTable, too_large
from coinfer.units import MESSAGE_BYTES, MIB


def profile_notes(graph: ModelGraph, table: ProfileTable) -> Iterator[str]:
    """Yield lines for people.

    Args:
        graph: the network.
        table: its profile.
    """
    limit, cuts = f"{MESSAGE_BYTES // MIB} MiB", [cut.tensors for cut in graph.useful_cuts()[:-1]]
    over = [cut for cut in cuts if too_large(graph, cut)]
    if too_large(graph, graph.outputs):
        yield f"the answer is over the limit of a message, {limit}: everything runs here"
    elif over:
        yield f"left out, over the limit of a message, {limit}: {_some(graph, over)}"
    changed = [check for check in table.cut_checks if check.difference > 0]
    if changed:
        most = max(check.difference for check in changed)
        names = _some(graph, [check.cut for check in changed])
        yield f"not exact at 32 bits, as ONNX Runtime computes otherwise across it (at most {most:.1e}): {names}"
    for axis, ratios in table.sizes.items():
        if len(ratios) > 1:
            known, error = ", ".join(map(str, sorted(ratios))), interpolation_error({axis: ratios})
            yield f"measured at {axis} = {known}; times of other sizes are interpolated, with an error of {error:.0%}"


def _some(graph: ModelGraph, cuts: list[tuple[str, ...]], most: int = 3) -> str:
    """Return the names of the first cuts, and how many more there are."""
    names = [cut_name(graph, cut) for cut in cuts[:most]]
    return ", ".join(names) + (f" and {len(cuts) - most} more" if len(cuts) > most else "")

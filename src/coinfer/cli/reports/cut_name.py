"""The name of a cut in tables."""

from coinfer.graph.ir import ModelGraph


def cut_name(graph: ModelGraph, cut: tuple[str, ...]) -> str:
    """Return the name of a cut in a table.

    Args:
        graph: the network.
        cut: tensors that leave the device; the network's outputs if it runs there as a whole.
    """
    if cut == graph.inputs:
        return "(input)"
    return "(all here)" if set(cut) <= set(graph.outputs) else " + ".join(map(graph.label, cut))

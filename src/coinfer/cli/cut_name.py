"""How tables call a cut."""

from coinfer.graph.ir import ModelGraph


def cut_name(graph: ModelGraph, cut: tuple[str, ...]) -> str:
    if cut == graph.inputs:
        return "(input)"
    return "(all here)" if set(cut) <= set(graph.outputs) else " + ".join(cut)

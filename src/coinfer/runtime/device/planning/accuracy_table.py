"""The accuracy table by which a device judges answers."""

from pathlib import Path

from coinfer.files import cache_folder
from coinfer.graph.ir import ModelGraph
from coinfer.profile.accuracy import AccuracyError, AccuracyTable
from coinfer.resources import MODELS
from coinfer.runtime.device.config import DeviceError
from coinfer.runtime.device.objective import Objective


def accuracy_for(
    graph: ModelGraph, source: AccuracyTable | str | Path | None, objective: Objective
) -> AccuracyTable | None:
    """Return the accuracy table of a network: the given one; without one, the table shipped with the network, or the
    one that `coinfer accuracy` kept for it, if any.

    Args:
        graph: the network that the table must belong to.
        source: a table, its file, or None for the shipped or kept one.
        objective: decides whether a table is needed.

    Raises:
        AccuracyError: if the file cannot be read, or the table belongs to another network.
        DeviceError: if the objective needs a table and there is none.
    """
    if isinstance(source, str | Path):
        table = _loaded(graph, source)
    else:
        table = source or shipped_accuracy(graph) or kept_accuracy(graph)
    if table is not None:
        table.check(graph)
    elif objective.counts_accuracy:
        raise DeviceError(
            f"an accuracy objective needs the accuracy table of {graph.name}; make it with `coinfer accuracy`, or "
            "with `coinfer exits measure` if it has early exits, and give it as accuracy"
        )
    return table


def shipped_accuracy(graph: ModelGraph) -> AccuracyTable | None:
    """Return the table in this package that was measured on exactly this network (same fingerprint), or None.

    Args:
        graph: the network.

    Raises:
        AccuracyError: if a shipped table is damaged.
    """
    tables = map(AccuracyTable.load, sorted(MODELS.glob("*accuracy*.json")))
    return next((table for table in tables if table.fingerprint == graph.fingerprint), None)


def kept_accuracy(graph: ModelGraph) -> AccuracyTable | None:
    """Return the table that `coinfer accuracy` kept for exactly this network, or None.

    Args:
        graph: the network.
    """
    try:
        table = AccuracyTable.load(kept_accuracy_file(graph))
        table.check(graph)
    except (AccuracyError, OSError):
        return None
    return table


def kept_accuracy_file(graph: ModelGraph) -> Path:
    """Return where `coinfer accuracy` keeps its table of a network.

    Args:
        graph: the network.

    Raises:
        FileNotFoundError: if the user has no folder for caches.
    """
    return cache_folder("accuracy") / f"{graph.fingerprint[:32]}.json"


def _loaded(graph: ModelGraph, path: str | Path) -> AccuracyTable:
    table = AccuracyTable.load(path)
    try:
        table.check(graph)
    except AccuracyError as error:
        raise AccuracyError(f"{path}: {error}") from None
    return table

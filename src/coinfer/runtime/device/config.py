"""What a device is set up with, checked before anything starts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from coinfer.errors import UserError
from coinfer.graph.ir import ModelGraph
from coinfer.profile.accuracy import AccuracyError, AccuracyTable
from coinfer.resources import MODELS
from coinfer.runtime.device.objective import Goal, Wish
from coinfer.units import WIRE_BITS


class DeviceError(UserError):
    """A wrong setting or input."""


@dataclass(frozen=True)
class WishSettings:
    """A wish, and who fulfils it, as a command line gives them; names and meanings are those of `Device`."""

    goal: Goal = "latency"
    min_accuracy: float = 0.0
    energy_j: float = math.inf
    power_w: float = 0.0
    transmit_power_w: float = 0.0
    accuracy: Path | None = None
    confidence: tuple[float, ...] | float | None = None
    confidence_loss: float | None = None
    policy: Path | None = None

    @property
    def wish(self) -> Wish:
        return Wish(self.goal, self.min_accuracy, self.energy_j, self.power_w, self.transmit_power_w)

    def for_device(self) -> dict[str, Any]:
        """Arguments of `Device`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def accuracy_of(graph: ModelGraph, source: AccuracyTable | str | Path | None, wish: Wish) -> AccuracyTable | None:
    """The accuracy table that a wish is judged by: the one given, else the one that is shipped with the network.

    Raises:
        AccuracyError: where it cannot be read or belongs to another network.
        DeviceError: where the wish needs one and there is none.
    """
    if isinstance(source, str | Path):
        table = AccuracyTable.load(source)
        try:
            table.check(graph)
        except AccuracyError as error:
            raise AccuracyError(f"{source}: {error}") from None
    else:
        table = source or shipped_accuracy(graph)
    if table is not None:
        table.check(graph)
    elif wish.min_accuracy > 0 or wish.goal == "accuracy":
        raise DeviceError(
            f"a wish for accuracy needs the accuracy table of {graph.name}; make it with `coinfer exits measure` and "
            "give it as accuracy"
        )
    return table


def shipped_accuracy(graph: ModelGraph) -> AccuracyTable | None:
    """The table in this package that was measured on exactly this network."""
    if len(graph.outputs) == 1:
        return None
    tables = map(AccuracyTable.load, sorted(MODELS.glob("*accuracy*.json")))
    return next((table for table in tables if table.fingerprint == graph.fingerprint), None)


def check_settings(servers: Sequence[str], deadline_s: float, bits: Sequence[int], slowdown: float) -> None:
    if isinstance(servers, str):
        raise DeviceError(f"servers is one string; expected a list such as [{servers!r}]")
    for server in servers:
        host, _, port = str(server).rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise DeviceError(f"server {server!r} is no address; expected host:port such as 127.0.0.1:8001")
    if not deadline_s > 0:
        raise DeviceError(f"deadline_s is {deadline_s}; expected seconds above 0")
    if not bits or any(width not in WIRE_BITS for width in bits):
        raise DeviceError(f"bits is {tuple(bits)}; expected some of {', '.join(map(str, WIRE_BITS))}")
    if not slowdown >= 1:
        raise DeviceError(f"slowdown is {slowdown}; expected 1 (this processor) or more")

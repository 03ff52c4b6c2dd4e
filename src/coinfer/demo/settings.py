"""What the demo runs, and what it runs if nothing is said."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from coinfer.graph.zoo.pretrained import accuracy_file
from coinfer.profile.accuracy import AccuracyTable
from coinfer.resources import TRACES
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.objective import Objective


@dataclass(frozen=True)
class DemoSettings:
    """A run of the demo. Its deadline is that of each request, not the device's."""

    model: str = "resnet50"
    images: str | None = None
    """Folder of pictures, or labelled ones as `profile.dataset` reads them; None takes the shipped ones."""
    trace: str = str(TRACES)
    """File, or `file:trace_id` for all links on one trace."""
    link_scale: float | None = 1.0
    """Rates of the links over the trace's. None fits them to the device: at the mean rate a picture takes
    `PICTURE_SHARE` of the time that the device needs for the network."""
    deadline_s: float | None = 0.25
    """None is `DEADLINE_SHARE` of that time."""
    edge_slowdowns: tuple[float, ...] = (2.5, 1.5, 1.0)
    """One edge server for each."""
    scheme_s: float = 25.0
    """How long each scheme runs."""
    runs: str = "runs"
    """Folder for records and plots."""
    device: DeviceConfig = field(default_factory=lambda: DeviceConfig(slowdown=6.0))
    """The device, without its servers and deadline."""


PICTURE_SHARE, DEADLINE_SHARE = 0.8, 0.9
ACCURACY_LOSS = 0.01
"""Accuracy that answers may lose against the last exit, if a network is shipped with its accuracy."""
CONFIDENCE_LOSS = 0.005
"""The part of it that early exits may lose."""
FITTED = {"link_scale": None, "deadline_s": None}
SMALL_DEVICE = {"slowdown": 200.0, "bits": (16, 8, 4)}
SMALL_MODELS = ("alexnet-exits", "alexnet-cifar-exits")
"""Pictures of 32 x 32 weigh a fiftieth of those of 224 x 224, and a network for them takes less than a millisecond:
with the links and the device slowed alike, the choice matters as it does for large ones."""


def demo_settings(model: str, device: Mapping[str, Any], objective: Mapping[str, Any], **settings: Any) -> DemoSettings:
    """Return the settings for a network; what is None is as the network's preset or the default has it.

    Args:
        device: fields of `DeviceConfig`.
        objective: fields of `Objective`.
        settings: other fields of `DemoSettings`.
    """
    small = model in SMALL_MODELS
    shipped_device, shipped_objective = _shipped(model)
    wanted = shipped_objective | _given(objective)
    known = (SMALL_DEVICE if small else {}) | shipped_device | _given(device)
    if "confidence" in _given(device):
        known.pop("confidence_loss", None)
    defaults = DemoSettings(model=model)
    return replace(
        defaults,
        device=replace(defaults.device, objective=Objective(**wanted), **known),
        **((FITTED if small else {}) | _given(settings)),
    )


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _shipped(model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return device and objective of a network that is shipped with its accuracy: nearly the last exit's, as fast as
    possible."""
    file = accuracy_file(model)
    if not file.exists():
        return {}, {}
    table = AccuracyTable.load(file)
    min_accuracy = table.accuracy(len(table.exits) - 1) - ACCURACY_LOSS
    device = {"confidence_loss": CONFIDENCE_LOSS} if table.confidence else {}
    return device, {"min_accuracy": round(min_accuracy, 3)}


def deadline_for(settings: DemoSettings, own_s: float) -> float:
    """Return the deadline, fitted to the device's own time for the whole network if none is given."""
    return settings.deadline_s or float(f"{DEADLINE_SHARE * own_s:.2g}")


def link_scale_for(settings: DemoSettings, own_s: float, picture_bits: float, mean_bps: float) -> float:
    """Return the links' rates over the trace's, fitted to the device's own time if they are not given.

    Args:
        mean_bps: of the traces before scaling.
    """
    return settings.link_scale or float(f"{picture_bits / (PICTURE_SHARE * own_s) / mean_bps:.2g}")

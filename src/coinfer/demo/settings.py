"""The settings of the demo, with defaults that depend on the network."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from coinfer.graph.zoo.pretrained import accuracy_file
from coinfer.profile.accuracy import AccuracyTable
from coinfer.resources import TRACES
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.objective import Objective


@dataclass(frozen=True)
class DemoSettings:
    """The settings of a run of the demo. The deadline here holds for every request, not the device's."""

    model: str = "resnet50"
    images: str | None = None
    """Folder of photographs, or labelled pictures as `profile.dataset` reads them; None takes the shipped ones."""
    trace: str = str(TRACES)
    """File, or `file:trace_id` for all links on one trace."""
    link_scale: float | None = 1.0
    """Factor on the trace's rates. None fits it to the device: at the mean rate, a picture takes `PICTURE_SHARE` of the
    time that the device needs for the whole network."""
    deadline_s: float | None = 0.25
    """Of every request. None takes `DEADLINE_SHARE` of the time that the device needs for the whole network."""
    edge_slowdowns: tuple[float, ...] = (2.5, 1.5, 1.0)
    """Slow-down factors; one edge server for each."""
    scheme_s: float = 25.0
    """Time that each scheme runs."""
    runs: str = "runs"
    """Folder for records and plots."""
    device: DeviceConfig = field(default_factory=lambda: DeviceConfig(slowdown=6.0))
    """The device, without its servers and deadline."""


PICTURE_SHARE, DEADLINE_SHARE = 0.8, 0.9
ACCURACY_LOSS = 0.01
"""Accuracy that answers may lose against the last exit, for networks that are shipped with their accuracy."""
CONFIDENCE_LOSS = 0.005
"""The part of `ACCURACY_LOSS` that early exits may lose."""
FITTED = {"link_scale": None, "deadline_s": None}
SMALL_DEVICE = {"slowdown": 200.0, "bits": (16, 8, 4)}
SMALL_MODELS = ("alexnet-exits", "alexnet-cifar-exits")
"""Networks for pictures of 32 x 32, which have a fiftieth of the bits of 224 x 224 and take less than a millisecond.
With slower links and a slower device, the choice matters as much as it does for large networks."""


def demo_settings(
    model: str, device: Mapping[str, object], objective: Mapping[str, object], **settings: object
) -> DemoSettings:
    """Return the settings for a network; values that are None become the network's preset or the default.

    Args:
        model: name or file of the network.
        device: fields of `DeviceConfig` by name.
        objective: fields of `Objective` by name.
        settings: other fields of `DemoSettings`.

    Raises:
        UserError: if a value is out of range.
    """
    small = model in SMALL_MODELS
    shipped_device, shipped_objective = _shipped(model)
    objective_fields = shipped_objective | _without_none(objective)
    device_fields = (SMALL_DEVICE if small else {}) | shipped_device | _without_none(device)
    if "confidence" in _without_none(device):
        device_fields.pop("confidence_loss", None)
    defaults = DemoSettings(model=model)
    return replace(
        defaults,
        device=replace(defaults.device, objective=replace(Objective(), **objective_fields), **device_fields),
        **((FITTED if small else {}) | _without_none(settings)),
    )


def _without_none(values: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


def _shipped(model: str) -> tuple[dict[str, object], dict[str, object]]:
    """Return device and objective presets of a network that is shipped with its accuracy, empty for others.

    They ask for answers as fast as possible that are nearly as accurate as the last exit's.
    """
    file = accuracy_file(model)
    if not file.exists():
        return {}, {}
    table = AccuracyTable.load(file)
    min_accuracy = table.accuracy(len(table.exits) - 1) - ACCURACY_LOSS
    device: dict[str, object] = {"confidence_loss": CONFIDENCE_LOSS} if table.confidence else {}
    return device, {"min_accuracy": round(min_accuracy, 3)}


def deadline_for(settings: DemoSettings, own_s: float) -> float:
    """Return the deadline in seconds, fitted to the device's speed if none is given.

    Args:
        settings: of the demo.
        own_s: the device's own time for the whole network.
    """
    return settings.deadline_s or float(f"{DEADLINE_SHARE * own_s:.2g}")


def link_scale_for(settings: DemoSettings, own_s: float, picture_bits: float, mean_bps: float) -> float:
    """Return the factor on the traces' rates, fitted to the device's speed if none is given.

    Args:
        settings: of the demo.
        own_s: the device's own time for the whole network.
        picture_bits: size of a picture as it is sent.
        mean_bps: of the traces before scaling.
    """
    return settings.link_scale or float(f"{picture_bits / (PICTURE_SHARE * own_s) / mean_bps:.2g}")

"""The settings of the demo; what is not given follows from what is measured on this machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from coinfer.graph.zoo.pretrained import accuracy_file
from coinfer.profile.accuracy import AccuracyTable
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.objective import Objective

MODEL = "alexnet-exits"
DEVICE_S, LEAST_SLOWDOWN = 0.5, 6.0
"""The device takes this long for the whole network, or is at least this many times slower than this machine."""
SERVER_SHARES = (1 / 16, 1 / 12, 1 / 8)
"""Time of each edge server for the whole network, as a share of the device's, where this machine is fast enough."""
DEADLINE_SHARE = 0.9
"""The deadline as a share of the device's time for the whole network."""
POWER_W, TRANSMIT_POWER_W = 3.0, 1.2
"""Made-up power of the device while it computes and while it sends, from which its energy is reckoned."""
ACCURACY_LOSS = 0.01
"""Accuracy that answers may lose against the last exit, for networks that are shipped with their accuracy."""
CONFIDENCE_LOSS = 0.005
"""The part of `ACCURACY_LOSS` that early exits may lose."""


@dataclass(frozen=True)
class DemoSettings:
    """The settings of a run of the demo; None is fitted to this machine."""

    model: str = MODEL
    images: str | None = None
    """Folder of photographs, or labelled pictures as `profile.dataset` reads them; None takes the shipped ones."""
    trace: str | None = None
    """Links follow this file, or `file:trace_id`, instead of the phases; no server dies then, no crowd comes."""
    link_scale: float | None = None
    """Factor on the trace's rates. None makes a picture take `script.PICTURE_SHARE` of the device's time."""
    deadline_s: float | None = None
    """Of every request."""
    device_slowdown: float | None = None
    edge_slowdowns: tuple[float, ...] | None = None
    """One edge server for each."""
    rounds: int = 10
    """Rounds of each phase: in each, every scheme answers the same picture."""
    runs: str = "runs"
    """Folder for records and plots."""
    device: DeviceConfig = field(default_factory=DeviceConfig)
    """The device, without its servers, deadline and slowdown."""


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
    shipped_device, shipped_objective = _shipped(model)
    power = {"power_w": POWER_W, "transmit_power_w": TRANSMIT_POWER_W}
    objective_fields = power | shipped_objective | _without_none(objective)
    device_fields = shipped_device | _without_none(device)
    if "confidence" in _without_none(device):
        device_fields.pop("confidence_loss", None)
    config = replace(DeviceConfig(), objective=replace(Objective(), **objective_fields), **device_fields)
    return replace(DemoSettings(model=model, device=config), **_without_none(settings))


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


def fitted(settings: DemoSettings, whole_s: float) -> DemoSettings:
    """Return the settings with slow-downs and deadline that make the same story on every machine.

    Args:
        settings: of the demo.
        whole_s: this machine's time for the whole network, measured now.
    """
    slowdown = settings.device_slowdown or round(max(DEVICE_S / whole_s, LEAST_SLOWDOWN), 1)
    shares = [round(max(slowdown * share, 1.0), 2) for share in SERVER_SHARES]
    return replace(
        settings,
        device_slowdown=slowdown,
        edge_slowdowns=settings.edge_slowdowns or tuple(shares),
        deadline_s=settings.deadline_s or float(f"{DEADLINE_SHARE * slowdown * whole_s:.2g}"),
        device=replace(settings.device, slowdown=slowdown),
    )

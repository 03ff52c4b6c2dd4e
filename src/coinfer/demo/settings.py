"""What the demo runs, and what it runs without being told."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from coinfer.graph.zoo.pretrained import accuracy_file
from coinfer.profile.accuracy import AccuracyTable
from coinfer.resources import TRACES
from coinfer.runtime.device.config import WishSettings


@dataclass(frozen=True)
class DemoSettings:
    model: str = "resnet50"
    images: str | None = None
    """Folder of pictures, or labelled ones as `profile.dataset` reads them; None takes the shipped ones."""
    trace: str = str(TRACES)
    """File, or `file:trace_id` for all links on one trace."""
    link_scale: float = 1.0
    """Rates of the links over the trace's. 0 fits them to the device: at the mean rate a picture takes `PICTURE_SHARE`
    of the time that the device needs for the network."""
    deadline_s: float = 0.25
    """0 is `DEADLINE_SHARE` of that time."""
    device_slowdown: float = 6.0
    edge_slowdowns: tuple[float, ...] = (2.5, 1.5, 1.0)
    bits: tuple[int, ...] = (32, 16, 8)
    jpeg_quality: int | None = None
    scheme_s: float = 25.0
    """How long each scheme runs."""
    runs: str = "runs"
    wishes: WishSettings = field(default_factory=WishSettings)


PICTURE_SHARE, DEADLINE_SHARE = 0.8, 0.9
_SMALL = {"link_scale": 0.0, "deadline_s": 0.0, "device_slowdown": 200.0, "bits": (16, 8, 4)}
_SURE = {"confidence_loss": 0.005}
MAY_LOSE = 0.01
"""Accuracy that answers may lose against the last exit, where a network is shipped with its accuracy."""
PRESETS: Mapping[str, Mapping[str, Any]] = {"alexnet-exits": _SMALL, "alexnet-cifar-exits": _SMALL}
"""Where a network differs from the defaults. Pictures of 32 x 32 weigh a fiftieth of those of 224 x 224, and a network
for them takes less than a millisecond: with the links and the device slowed alike, the choice matters as it does for
large ones."""


def demo_settings(model: str, wishes: Mapping[str, Any], **given: Any) -> DemoSettings:
    """The settings for a network; what is None is as the network's preset or the default has it."""
    wished = _wishes_for(model) | {key: value for key, value in wishes.items() if value is not None}
    if "confidence" in wished:
        wished.pop("confidence_loss", None)
    known = dict(PRESETS.get(model, {})) | {key: value for key, value in given.items() if value is not None}
    return replace(DemoSettings(model=model, wishes=WishSettings(**wished)), **known)


def _wishes_for(model: str) -> dict[str, Any]:
    """For a network that is shipped with its accuracy: nearly the last exit's, as fast as possible."""
    file = accuracy_file(model)
    if not file.exists():
        return {}
    table = AccuracyTable.load(file)
    least = table.accuracy(len(table.exits) - 1) - MAY_LOSE
    return {"min_accuracy": round(least, 3), **(_SURE if table.confidence else {})}


def relative_to(own_s: float, picture_bits: float, mean_bps: float, settings: DemoSettings) -> DemoSettings:
    """The settings, what is 0 in terms of the device's own time for the whole network.

    Args:
        mean_bps: of the traces before scaling.
    """
    deadline_s = settings.deadline_s or float(f"{DEADLINE_SHARE * own_s:.2g}")
    scale = settings.link_scale or float(f"{picture_bits / (PICTURE_SHARE * own_s) / mean_bps:.2g}")
    return replace(settings, deadline_s=deadline_s, link_scale=scale)

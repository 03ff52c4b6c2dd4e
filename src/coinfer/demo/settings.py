"""What the demo runs, and what it runs without being told."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from coinfer.runtime.settings import WishSettings
from coinfer.traces import SHIPPED_TRACES


@dataclass(frozen=True)
class DemoSettings:
    model: str = "resnet50"
    images: str | None = None
    """Folder of pictures, or labelled ones as `profile.labelled` reads them; the shipped ones without it."""
    trace: str = str(SHIPPED_TRACES)
    """File, or `file:trace_id` for all links on one trace."""
    link_scale: float = 1.0
    """Rates of the links as a share of the trace's."""
    deadline_s: float = 0.25
    device_slowdown: float = 6.0
    edge_slowdowns: tuple[float, ...] = (2.5, 1.5, 1.0)
    bits: tuple[int, ...] = (32, 16, 8)
    jpeg_quality: int | None = None
    scheme_s: float = 25.0
    """How long each scheme runs."""
    runs: str = "runs"
    wishes: WishSettings = field(default_factory=WishSettings)


_SMALL = {"link_scale": 0.03, "deadline_s": 0.06, "device_slowdown": 200.0, "bits": (16, 8, 4), "goal": "accuracy"}
PRESETS: Mapping[str, Mapping[str, Any]] = {"alexnet-exits": _SMALL, "alexnet-cifar-exits": _SMALL}
"""Where a network differs from the defaults. Pictures of 32 x 32 weigh a fiftieth of those of 224 x 224, and a network
for them takes less than a millisecond: with the links and the device slowed alike, the choice matters as it does for
large ones."""


def demo_settings(model: str, wishes: Mapping[str, Any], **given: Any) -> DemoSettings:
    """The settings for a network; what is None is as the network's preset or the default has it."""
    preset = dict(PRESETS.get(model, {}))
    wished = {"goal": preset.pop("goal", "latency")} | {
        key: value for key, value in wishes.items() if value is not None
    }
    known = preset | {key: value for key, value in given.items() if value is not None}
    return replace(DemoSettings(model=model, wishes=WishSettings(**wished)), **known)

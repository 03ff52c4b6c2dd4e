"""A catalogue of device classes: how long whole networks take on them, as published.

Every row of `data/devices.csv` names its source; tools/make_device_catalogue.py writes the file. The publications use
other runtimes than ours (ncnn or PyTorch), so plan with these figures only until the device itself is profiled.
"""

import csv
from collections.abc import Mapping
from functools import cache
from typing import Literal, NamedTuple

import numpy as np

from coinfer.profile.table import ProfileError, ProfileTable
from coinfer.resources import DEVICES
from coinfer.units import GIGA


class DeviceClass(NamedTuple):
    """A kind of device, and the published times of whole networks on it."""

    name: str
    description: str
    unit: Literal["cpu", "gpu"]
    source: str
    latency_s: Mapping[str, float]
    """Time of whole networks at batch 1, by their names."""

    def network_s(self, model: str, work_flop: float) -> float:
        """Return the time of a whole network at batch 1: as published, or estimated from its arithmetic.

        The estimate is a line in logarithms of flop and seconds through the listed networks. Leaving out each of them
        in turn, it errs by a factor of 1.3 in the median and 1.7 at the 90th percentile.

        Args:
            model: name of the network; the catalogue may not list it.
            work_flop: arithmetic of the network, above 0.
        """
        if model in self.latency_s:
            return self.latency_s[model]
        flop = np.log([WORK_FLOP[name] for name in self.latency_s])
        slope, level = np.polyfit(flop, np.log(list(self.latency_s.values())), 1)
        return float(np.exp(level + slope * np.log(work_flop)))


WORK_FLOP: Mapping[str, float] = {
    "alexnet": 1.43 * GIGA,
    "vgg16": 30.96 * GIGA,
    "resnet18": 3.63 * GIGA,
    "resnet50": 8.18 * GIGA,
    "mobilenetv2": 0.60 * GIGA,
    "googlenet": 3.00 * GIGA,
    "squeezenet": 0.70 * GIGA,
    "efficientnet_b0": 0.78 * GIGA,
}
"""Arithmetic of the listed networks at 224 x 224, twice the multiply-adds in torchvision's documentation."""


@cache
def _catalogue() -> Mapping[str, DeviceClass]:
    text = DEVICES.read_text(encoding="utf-8")
    return {row["name"]: _device_class(row) for row in csv.DictReader(text.splitlines())}


def _device_class(row: Mapping[str, str]) -> DeviceClass:
    latency_s = {name: float(row[f"{name}_s"]) for name in WORK_FLOP if row[f"{name}_s"]}
    unit = "gpu" if row["unit"] == "gpu" else "cpu"
    return DeviceClass(row["name"], row["description"], unit, row["source"], latency_s)


def names() -> tuple[str, ...]:
    """Return the names of all device classes, the slow ones first."""
    return tuple(sorted(_catalogue(), key=lambda name: -_catalogue()[name].latency_s["resnet50"]))


def device_class(name: str) -> DeviceClass:
    """Return one class of the catalogue.

    Args:
        name: one of `names()`.

    Raises:
        ProfileError: if the catalogue has no such class.
    """
    if name not in _catalogue():
        raise ProfileError(f"no device class {name!r}; there are {', '.join(names())}")
    return _catalogue()[name]


def device_slowdown(name: str, table: ProfileTable) -> float:
    """Return how many times slower a device class runs a network than the machine of its table; below 1 is faster.

    Args:
        name: one of `names()`.
        table: the network's profile on any machine.

    Raises:
        ProfileError: if the catalogue has no such class.
    """
    return device_class(name).network_s(table.model, table.work_flop) / table.whole_s

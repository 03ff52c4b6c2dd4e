"""Latency of the layers on device and server, and energy of the device.

python experiments/sac-d/layers.py [--scenario sacd]
"""

from pathlib import Path
from typing import Any

import bandwidths
import drawing
import numpy as np
from drawing import finish, plt

from coinfer.scenario import tables
from coinfer.scenario.load import load
from coinfer.scenario.spec import OffloadScenario
from coinfer.units import MILLI


def layers(scenario: str, folder: Path) -> dict[str, Any]:
    """Latency on device and server, and energy of the device, of every piece between two cuts of the last exit."""
    opened = load(scenario)
    spec, source = opened
    assert isinstance(spec, OffloadScenario)
    networks = tables.open_networks(spec, source)
    device = tables.speeds(spec.devices, "devices", networks, source)[0][0]
    server = tables.speeds(spec.servers, "servers", networks, source)[0][0]
    cuts = networks[0].exits[-1]
    names = [cut.tensor for cut in cuts[1:]]
    device_s, server_s = (
        np.array([speed.segment_s(len(networks[0].exits) - 1, i, i + 1) for i in range(len(cuts) - 1)])
        for speed in (device, server)
    )
    energy_j = tables.energy_j(spec.devices[0], device_s)
    figure, (left, right) = plt.subplots(2, 1, figsize=(8, 5.5), sharex=True, layout="constrained")
    place = np.arange(len(names))
    left.bar(place - 0.2, device_s / MILLI, 0.4, label="device")
    left.bar(place + 0.2, server_s / MILLI, 0.4, label="server")
    left.set(ylabel="latency, ms", yscale="log", title=f"{spec.name}: layers of {networks[0].network}, last exit")
    left.legend()
    right.bar(place, energy_j / MILLI, 0.5, color="tab:green")
    right.set(ylabel="energy of the device, mJ", xlabel="up to this tensor, from the one before")
    right.set_xticks(place, names, rotation=30, ha="right")
    finish(figure, (left, right), folder / "layers.png")
    columns = {"device_s": device_s, "server_s": server_s, "device_j": energy_j}
    return {"tensors": names, **{name: bandwidths.short(values) for name, values in columns.items()}}


if __name__ == "__main__":
    drawing.main(layers)

"""Data that crosses each cut, plain and with each number of bits.

python experiments/sac-d/sizes.py [--scenario sacd]
"""

from pathlib import Path
from typing import Any

import drawing
import numpy as np
from drawing import finish, plt

from coinfer.scenario import tables
from coinfer.scenario.load import load
from coinfer.scenario.spec import OffloadScenario
from coinfer.units import BITS_PER_BYTE

KILO = 1e3


def sizes(scenario: str, folder: Path) -> dict[str, Any]:
    """What crosses each cut at 32 bits plain, and encoded with each number of bits."""
    opened = load(scenario)
    spec, source = opened
    assert isinstance(spec, OffloadScenario)
    table, model = tables.open_networks(spec, source)[0], spec.models[0]
    cuts = table.exits[-1][:-1]
    plain = np.array([cut.elements * 4 for cut in cuts])
    encoded = {bits: np.full(len(cuts), np.nan) for bits in (8, *model.bits)}
    for i, cut in enumerate(cuts):
        for bits, size in tables.encoding_of(model).sizes_bits(cut, is_input=i == 0).items():
            encoded.setdefault(bits, np.full(len(cuts), np.nan))[i] = size / BITS_PER_BYTE
    figure, axes = plt.subplots(figsize=(8, 3.8), layout="constrained")
    place, width = np.arange(len(cuts)), 0.8 / (len(encoded) + 1)
    axes.bar(place - 0.4, plain / KILO, width, label="32 bits, plain", color="0.7")
    for number, bits in enumerate(sorted(encoded), 1):
        axes.bar(place - 0.4 + number * width, encoded[bits] / KILO, width, label=f"{bits} bits, coded")
    axes.set(yscale="log", ylabel="kB (1000 bytes)", title=f"{spec.name}: data that crosses each cut")
    axes.set_xticks(place, [cut.tensor for cut in cuts], rotation=30, ha="right")
    axes.legend(fontsize=8)
    finish(figure, (axes,), folder / "sizes.png")
    kept = {str(bits): [None if np.isnan(one) else float(one) for one in row] for bits, row in sorted(encoded.items())}
    return {"cuts": [cut.tensor for cut in cuts], "plain_bytes": plain.tolist(), "coded_bytes": kept}


if __name__ == "__main__":
    drawing.main(sizes)

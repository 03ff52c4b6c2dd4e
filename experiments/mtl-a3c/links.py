"""Figure 13: total delay with half to twice the link rate, for four networks; the paper's ResNet-32 is slowest, NiN
fastest.

    python experiments/mtl-a3c/links.py [--seeds 10] [--steps 4800]

Writes results/figure13.json and prints the table beside the paper's percentages.
"""

from schemes import sweep
from sweeps import LINKS, NETWORKS

POINTS = {f"{network}, {link} x": {"network": network, "link": link} for network in NETWORKS for link in LINKS}
EXPECTED = []
"""Point, other row, measure, and how many percent below it the paper reports the proposed scheme."""

if __name__ == "__main__":
    sweep("figure13", POINTS, EXPECTED)

"""Figure 9: total, edge and local delay with 3 to 18 blocks. A3C's joint head reaches 6 blocks on 4 servers.

    python experiments/mtl-a3c/blocks.py [--seeds 10] [--steps 4800]

Writes results/figure9.json and prints the table beside the paper's percentages.
"""

from schemes import sweep
from sweeps import BLOCKS

POINTS = {f"{m} blocks": {"blocks": m} for m in BLOCKS}
EXPECTED = [
    ("3 blocks", "distributed DQN", "edge_s", 7.25),
    ("6 blocks", "distributed DQN", "edge_s", 10.52),
    ("9 blocks", "distributed DQN", "edge_s", 15.61),
    ("15 blocks", "greedy-device", "local_s", 9.45),
    ("18 blocks", "greedy-device", "local_s", 10.77),
]
"""Point, other row, measure, and how many percent below it the paper reports the proposed scheme."""

if __name__ == "__main__":
    sweep("figure9", POINTS, EXPECTED)

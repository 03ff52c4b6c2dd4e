"""Figure 12: delays with limits of 1 to 7 s for every block.

The blocks of our world take tenths of a second, so that these limits hardly bind; the sweep goes on with limits of the
paper's proportion to the delay, 0.05 to 0.35 s.

    python experiments/mtl-a3c/limits.py [--seeds 10] [--steps 4800]

Writes results/figure12.json and prints the table beside the paper's percentages.
"""

from schemes import sweep
from sweeps import LIMITS_S

POINTS = {f"{limit} s": {"limit_s": limit} for limit in (*LIMITS_S, *(one / 20 for one in LIMITS_S))}
EXPECTED = [
    ("1 s", "A3C", "edge_s", 8.63),
    ("3 s", "A3C", "edge_s", 7.22),
    ("7 s", "A3C", "edge_s", 7.28),
    ("1 s", "distributed DQN", "edge_s", 9.59),
    ("3 s", "distributed DQN", "edge_s", 10.85),
    ("7 s", "distributed DQN", "edge_s", 10.74),
    ("1 s", "greedy-device", "local_s", 7.85),
    ("3 s", "greedy-device", "local_s", 7.57),
    ("5 s", "greedy-device", "local_s", 7.20),
]
"""Point, other row, measure, and how many percent below it the paper reports the proposed scheme."""

if __name__ == "__main__":
    sweep("figure12", POINTS, EXPECTED)

"""Figure 8: total, edge and local delay with 2 to 9 servers.

    python experiments/mtl-a3c/servers.py [--seeds 10] [--steps 4800]

Writes results/figure8.json and prints the table beside the paper's percentages.
"""

from schemes import sweep
from sweeps import SERVERS

POINTS = {f"{n} servers": {"servers": n} for n in SERVERS}
EXPECTED = [
    ("6 servers", "A3C", "mean_s", 4.61),
    ("6 servers", "distributed DQN", "mean_s", 6.88),
    ("6 servers", "greedy", "mean_s", 7.53),
    ("3 servers", "distributed DQN", "local_s", 8.40),
    ("4 servers", "distributed DQN", "local_s", 6.21),
    ("6 servers", "distributed DQN", "local_s", 6.48),
    ("7 servers", "distributed DQN", "local_s", 4.12),
]
"""Point, other row, measure, and how many percent below it the paper reports the proposed scheme."""

if __name__ == "__main__":
    sweep("figure8", POINTS, EXPECTED)

"""Figure 10: total, edge and local delay with 30 to 110 tasks a slot; the paper's gap is smallest at 50.

    python experiments/mtl-a3c/rates.py [--seeds 10] [--steps 4800]

Writes results/figure10.json and prints the table beside the paper's percentages.
"""

from schemes import sweep
from sweeps import RATES

POINTS = {f"{k} tasks a slot": {"tasks": k} for k in RATES}
EXPECTED = []
"""Point, other row, measure, and how many percent below it the paper reports the proposed scheme."""

if __name__ == "__main__":
    sweep("figure10", POINTS, EXPECTED)

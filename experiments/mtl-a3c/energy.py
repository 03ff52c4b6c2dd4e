"""Figure 11: energy with other numbers of servers, blocks and tasks, from the records of figures 8 to 10.

    python experiments/mtl-a3c/energy.py

The paper's energy falls with servers, and rises with blocks and tasks. Writes results/figure11.json.
"""

import json

from schemes import RESULTS


def energies() -> dict[str, dict[str, float]]:
    """Mean energy per task of every row at every point, in joules."""
    found = {}
    for figure in ("figure8", "figure9", "figure10"):
        record = json.loads((RESULTS / f"{figure}.json").read_text())
        for point, rows in record["means"].items():
            found[point] = {name: row["energy_j"] for name, row in rows.items() if "energy_j" in row}
    return found


if __name__ == "__main__":
    table = energies()
    for name, rows in table.items():
        print(f"{name:18s}", ", ".join(f"{row} {joules:.3f} J" for row, joules in rows.items()))
    (RESULTS / "figure11.json").write_text(json.dumps(table, indent=1) + "\n")

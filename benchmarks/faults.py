"""Faults at full size: what becomes of requests, memory and time while servers suffer.

    python benchmarks/faults.py malformed

Servers, gateways and their clients are processes of their own. Each kind writes benchmarks/results/faults-KIND.json;
docs of the kinds are in benchmarks/fault_kinds.
"""

import os
import sys

import harness
from fault_kinds import (
    alone,
    cancels,
    deadlines,
    failing,
    fairness,
    floods,
    inputs,
    malformed,
    overload,
    sizes,
    soak,
    suffering,
)

KINDS = {
    "malformed": malformed,
    "inputs": inputs,
    "sizes": sizes,
    "overload": overload,
    "fairness": fairness,
    "floods": floods,
    "cancels": cancels,
    "deadlines": deadlines,
    "failing": failing,
    "alone": alone,
    "soak": soak,
}
KINDS |= dict.fromkeys(suffering.KINDS, suffering)


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in KINDS:
        raise SystemExit(f"usage: python benchmarks/faults.py {'|'.join(KINDS)} [options]")
    kind = KINDS[name]
    parser = harness.parser(kind.__doc__, f"faults-{name}")
    parser.add_argument("kind", choices=[name])
    kind.add_options(parser)
    settings = parser.parse_args()
    load_before = os.getloadavg()[0]
    found = kind.run(settings)
    harness.write(settings, load_average=[round(load_before, 2), round(os.getloadavg()[0], 2)], **found)


if __name__ == "__main__":
    main()

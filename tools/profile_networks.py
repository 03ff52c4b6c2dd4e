"""Measure the networks that scenarios may name and write src/coinfer/data/networks/*.json.

Weights are random (coinfer.graph.zoo), so times, arithmetic and sizes mean something and answers do not.
Inputs are the shipped photographs; payload sizes are those of the runtime's codec.

    python tools/profile_networks.py [NAME ...]
"""

import argparse
from pathlib import Path

from rich.console import Console

from coinfer.graph.zoo import early_exits, networks
from coinfer.options.network import network_table
from coinfer.resources import NETWORKS
from coinfer.runtime.profiling import measure_with_codec, samples_for

BUILDERS = {**networks.ZOO, **early_exits.EXITS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(BUILDERS), help="which; all without")
    parser.add_argument("--output", type=Path, default=NETWORKS, help="folder")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name in arguments.networks:
        graph = BUILDERS[name](0)
        chains = [graph.pruned((output,)) for output in graph.outputs]
        tables = [measure_with_codec(chain, 1, samples_for(chain)) for chain in chains]
        table = network_table(graph, tables)
        table.save(arguments.output / f"{name}.json")
        console.print(f"{name}: {table.whole_s * 1e3:.2f} ms, {[len(cuts) for cuts in table.exits]} cuts")


if __name__ == "__main__":
    main()

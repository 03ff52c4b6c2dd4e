"""Draws all figures of this folder, in the order of the paper; takes seconds.

    python experiments/sac-d/figures.py [--scenario sacd]

Each has a script of its own. Writes results/SCENARIO/*.png, and results/SCENARIO/figures.json with the numbers of the
first three.
"""

from accuracies import accuracies
from drawing import main
from layers import layers
from learning import learning
from outcomes import outcomes
from sizes import sizes
from strategy import strategy

if __name__ == "__main__":
    main(layers, sizes, accuracies, strategy, outcomes, learning)

"""From what a site has experienced to a scenario of the simulator. Start at `fit.py`."""

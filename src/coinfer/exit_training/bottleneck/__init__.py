"""Supervised training of bottlenecks, taught by the untouched network. Start in `train`."""

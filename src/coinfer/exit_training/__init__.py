"""Supervised training of networks with early exits, all exits together. Start in `train`."""

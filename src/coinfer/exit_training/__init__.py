"""Supervised training of networks with early exits. Start in `train`."""

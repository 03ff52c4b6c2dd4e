"""Optima of a slot, exact or approximate, and lower bounds of an episode. Start in `slot`."""

"""Rules that decide without learning. Start in `offload`."""

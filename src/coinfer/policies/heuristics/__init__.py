"""Policies that decide by rules, without learning. Start in `offload`."""

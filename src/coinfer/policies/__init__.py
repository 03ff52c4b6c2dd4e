"""Policies: heuristics, learned networks, and bounds that no policy exceeds. Start in `candidates`, then `heuristics`.
Policies: heuristics, learned networks, and bounds that no policy exceeds. Start in `candidates`, then `heuristics`."""

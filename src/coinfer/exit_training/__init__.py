"""Supervised training: networks with early exits (start in `train`), and bottlenecks (in `bottleneck`)."""

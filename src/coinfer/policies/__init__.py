"""Deciding without learning: heuristics that people use, and bounds that no policy beats."""

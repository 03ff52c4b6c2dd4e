"""Policies in environments: the same chance for all of them, many seeds, intervals, bounds."""

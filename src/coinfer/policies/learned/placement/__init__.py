"""Policies that place the tasks of a slot, each with a fixed or ranked cut. Start in `placements`."""

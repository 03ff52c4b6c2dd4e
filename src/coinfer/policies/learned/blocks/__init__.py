"""Policies that place every block of a network, and their features."""

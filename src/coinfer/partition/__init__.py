"""Solvers that place the operations of a network on a device and servers.

Each takes a `Problem` and returns a `Partition`. Start in `problem`, then `hull`.
"""

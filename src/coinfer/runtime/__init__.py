"""Real nodes: the device that decides, the edge servers that compute, and the protocol between them.

Start in `device.device` for the one side and in `edge.server` for the other; `executor` runs the network on both.
"""

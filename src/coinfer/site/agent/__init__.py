"""A node's part of a site: it tells the controller what it sees, and knows what the controller says of the others.

Start at `stream.py`; `edge_agent.py` and `device_agent.py` put the parts together.
"""

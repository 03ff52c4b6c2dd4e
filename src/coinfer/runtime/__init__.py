"""Real nodes: the device that decides, the edge servers that compute, and what passes between them."""

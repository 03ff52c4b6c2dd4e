"""Defaults of a gateway; the command line and `GatewaySettings` both read them here."""

CONCURRENCY = 24
"""Requests that are under way at the same time."""
QUEUE = 8
"""Further requests that may wait."""

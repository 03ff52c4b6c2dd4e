"""Defaults of an edge server; the command line and `EdgeSettings` both read them here."""

HOST = "127.0.0.1"
GRPC_PORT = 8001
HTTP_PORT = 8000
QUEUE = 16
"""Requests that may wait."""
BATCH = 8
"""Requests for one piece that may run as one batch."""
GRACE_S = 30.0
"""How long requests may take to finish after SIGTERM."""

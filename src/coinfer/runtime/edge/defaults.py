"""How an edge server is set up if nothing else is said: the command line and `EdgeSettings` read it here."""

HOST = "127.0.0.1"
GRPC_PORT = 8001
HTTP_PORT = 8000
QUEUE = 16
"""Requests that may wait."""
GRACE_S = 30.0
"""How long requests may take to finish after SIGTERM."""

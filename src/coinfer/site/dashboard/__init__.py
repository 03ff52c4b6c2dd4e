"""The page of a site for browsers and terminals; it only reads. Start at `server.py`."""

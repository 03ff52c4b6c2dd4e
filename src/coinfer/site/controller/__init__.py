"""The centre of a site: who is there, what is known of all, the log of experience. Start at `process.py`."""

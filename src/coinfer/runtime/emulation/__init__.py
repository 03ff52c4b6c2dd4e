"""Shaped links and slow processors, for runs on one machine. Start in `links` and `slowdown`."""

"""The weak device: it decides for every request, runs the head, sends the rest. Start in `device`."""

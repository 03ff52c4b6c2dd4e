"""Training spread over processes and machines. Start in `coordinator`."""

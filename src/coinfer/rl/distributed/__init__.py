"""Training distributed over processes and machines. Start in `coordinator`."""

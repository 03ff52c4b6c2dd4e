"""Training distributed over processes and machines. Start in `coordinator` (CDO-DSAC) or `parameter_server` (A3C)."""

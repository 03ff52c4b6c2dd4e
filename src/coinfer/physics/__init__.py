"""Formulas of radio, computing, queueing and cost: free functions, arrays in and arrays out. Start in `latency`."""

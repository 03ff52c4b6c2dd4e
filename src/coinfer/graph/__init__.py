"""Networks as graphs: read them, know their operations and cuts, cut them into runnable pieces."""

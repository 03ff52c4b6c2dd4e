"""The simulated edge, vectorised over worlds: one module per environment. Start in `offload`, then `core`."""

"""How requests reach a node: over gRPC, in memory, or through emulated links. Start in `base`."""

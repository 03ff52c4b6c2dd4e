"""How requests reach a node. Start in `base`."""

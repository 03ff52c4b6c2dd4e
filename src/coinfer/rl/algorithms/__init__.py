"""One file for each learning scheme, with its settings, networks, losses and `train`. Start in `sac_d`."""

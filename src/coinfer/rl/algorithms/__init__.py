"""Learning schemes, one file each with settings, networks, losses and `train`. Start in `sac_d`."""

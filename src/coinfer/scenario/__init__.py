"""Worlds to try policies in: a YAML file, checked and compiled into plain arrays. Start in `load`, then `world`."""

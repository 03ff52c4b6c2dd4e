"""The compile step: a network and its profile become tables of options (exit, cut, code). Start in `compile`."""

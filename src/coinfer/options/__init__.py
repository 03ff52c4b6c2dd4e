"""The compile step: the costs of a network become a table of options (exit, cut, bits). Start in `table`."""

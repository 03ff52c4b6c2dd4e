"""The compile step: what a network costs becomes a table of options (exit, cut, bits). Start in `table`."""

"""The `coinfer` command: one file for each sub-command. Start in `main`."""

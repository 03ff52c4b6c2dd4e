"""The `coinfer` command: one file for each sub-command, and in `reports` what they print. Start in `main`."""

"""Which policy decides for a site: versions, judgement, roll-out and roll-back. Start at `updater.py`."""

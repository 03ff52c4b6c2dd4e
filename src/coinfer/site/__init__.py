"""The live system: a controller, agents on edge servers and devices, certificates. Start at `controller/process.py`."""

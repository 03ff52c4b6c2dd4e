"""The environments a second time, event by event in plain floats: exact, slow and independent. Start in `offload`."""

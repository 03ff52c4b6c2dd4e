"""The environments once more, event by event in plain floats: exact, slow, independent. Start in `offload`."""

"""Batched reinforcement learning: axis L of all tensors holds seeds and agents. Start in `algorithms.sac_d`."""

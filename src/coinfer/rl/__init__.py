"""Batched reinforcement learning: seeds and agents are one leading axis L of all tensors. Start in `algorithms.sac_d`."""

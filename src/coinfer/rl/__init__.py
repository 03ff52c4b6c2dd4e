"""Learning to decide, batched: seeds and agents are one leading axis L of every tensor. Start in `algorithms.sac_d`."""

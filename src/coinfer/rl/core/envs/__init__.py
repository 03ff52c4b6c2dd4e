"""Environments for learners: the protocol `rl.core.records.Env` over the simulated worlds, and CartPole."""

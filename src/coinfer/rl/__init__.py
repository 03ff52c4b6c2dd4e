"""Learners of decisions, stacked: seeds and agents are one leading axis L of every tensor."""

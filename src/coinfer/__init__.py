"""Collaborative DNN inference at the edge."""

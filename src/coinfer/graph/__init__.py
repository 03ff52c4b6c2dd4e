"""Networks as graphs: read them, know their operations and legal cuts, cut them into runnable segments.

Start in `ir`, and in `open_model` for how a network is opened.
"""

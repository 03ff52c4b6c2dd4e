"""Processes beside the controller that need PyTorch: the judge of candidates and the trainer. Nothing imports them."""

"""Tensors and pictures to bytes and back. Start in `codec`."""

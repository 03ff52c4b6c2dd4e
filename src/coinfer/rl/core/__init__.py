"""What all learning schemes share: environments, training loop, replay memory, checkpoints, curves. Start in `loop`."""

"""What all learning schemes share: environments, the loop, replay memory, checkpoints and curves. Start in `loop`."""

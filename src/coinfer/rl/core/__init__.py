"""What all learning schemes share: loops, memories, checkpoints. Start in `loop`."""

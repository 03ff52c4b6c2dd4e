"""The environments as Gymnasium, stable-baselines3 and TorchRL want them. Start in `gymnasium_env`."""

"""The environments in the forms of Gymnasium, stable-baselines3 and TorchRL. Start in `gymnasium_env`."""

"""The edge server: admission, scheduling, and its two protocol fronts. Start in `server`, then `service`."""

"""Networks that decide, what they see, and their export. Start in `nets`."""

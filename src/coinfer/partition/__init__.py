"""Where to cut a network. Every solver takes a `Problem` and returns a `Partition`."""

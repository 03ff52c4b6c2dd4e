"""Messages between nodes and their forms on the wire. Start in `messages`."""

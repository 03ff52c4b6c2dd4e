"""The networks that come with coinfer. Start in `networks`."""

"""The networks that come with coinfer: plain, with early exits, and pretrained. Start in `networks`."""

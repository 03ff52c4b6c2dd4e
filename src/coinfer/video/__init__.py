"""Answers the frames of a video as they come; a frame that would be late is left out. Start in `watch`."""

"""The weak device: it decides, computes, asks servers, and always answers. Start in `device`."""

"""The best that can be done, exactly or as a bound, in a slot or an episode. Start in `slot`."""

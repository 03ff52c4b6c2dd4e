"""The shipped learned policy: greedy with learned prices and orders. Start in `policy`."""

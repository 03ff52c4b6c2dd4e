"""Comparison of policies in the same episodes, with many seeds, intervals and bounds. Start in `compare`, then
`simulate`."""

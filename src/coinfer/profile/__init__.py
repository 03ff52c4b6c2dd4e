"""What a network costs and how accurate it is, measured or predicted. Start in `table`; `measure` fills it."""

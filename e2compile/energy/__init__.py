"""Energy: the work of a step, counted, and its price in joules on a chip."""

"""Work on blocks as streams: tiles, loop nests, tokens, and the cheapest by the cycle model."""

"""VTA's instruction set: configurations, instructions and their encoding, their text, streams of them."""

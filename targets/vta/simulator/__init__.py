"""A VTA in software."""

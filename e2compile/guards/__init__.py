"""Guards: which samples run a block, what dies where none does, and that part outlined as conditionals."""

"""Verification: eager PyTorch equals the captured graph, and the rewritten graph equals the program."""

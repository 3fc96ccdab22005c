"""Integers: convolutions as products of codes, and weight gradients as their signs."""

"""The report: one self-contained page of what was compiled, what it costs and what it did."""

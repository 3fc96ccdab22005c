"""Lowering: step graphs to a Relax module of scheduled kernels; `module` is where it begins."""

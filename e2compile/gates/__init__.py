"""Gates: residual blocks found by structure, the gate network, and norms over executed samples."""

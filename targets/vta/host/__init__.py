"""The host's side when compiling: kernels, what goes to the array, tensors into blocks and back."""

"""Plain (dense, exact) attention: the definition and PyTorch's own fused version."""

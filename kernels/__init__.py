"""Kernels: efficient attention mechanisms behind one interface."""

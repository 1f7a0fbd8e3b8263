"""Stable Audio 3 in PyTorch, with the Python interface existing scripts use."""

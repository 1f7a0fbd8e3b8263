"""Trains and judges the model this package ships, on sounds it makes itself."""

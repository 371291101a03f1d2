"""Convolutional networks in Python: every kernel compiled by Numba, every layer a plugin."""

__version__ = "0.1.0"

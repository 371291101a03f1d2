"""Convolutions and matrix products on the device."""

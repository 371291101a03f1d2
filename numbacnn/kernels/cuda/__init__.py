"""Kernels for NVIDIA GPUs: twins of those in :mod:`numbacnn.kernels`.

Nothing here is imported before somebody asks for the device. Arrays are dense :class:`~.memory.DeviceArray`; kernels get pointers to their
elements and sizes as int32 numbers, and are compiled once per kind of arguments, never per shape unless a factory says so.
"""

"""What computes layers on a GPU: for each layer a twin, which has the same shapes and parameters and kernels of its own.

Nothing here is imported before somebody asks for the device.
"""

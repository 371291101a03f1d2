"""Convolution on the device, as implicit matrix products over channels-last arrays (compare :mod:`numbacnn.kernels.conv`)."""

"""The random stream of dropout in Python's whole numbers."""

import math

import numpy as np

BLOCK = 8192


def mixed(z):
    z = (z + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def scrambled(z):
    z = (z ^ z >> 16) * 0x7FEB352D % 2**32
    z = (z ^ z >> 15) * 0x846CA68B % 2**32
    return z ^ z >> 16


def keeps(key, step, place, index, rate):
    seed = mixed((mixed((mixed(key) + step) % 2**64) + place) % 2**64)
    z = scrambled(scrambled((index + seed) % 2**32) ^ seed >> 32)
    return z >> 8 >= math.ceil(rate * 2**24)


def elements(shape, key, step, rate):
    kept = [keeps(key, step, k // BLOCK, k % BLOCK, rate) for k in range(math.prod(shape))]
    return np.array(kept).reshape(shape)


def groups(shape, key, step, rate, by_channel):
    kept = [[keeps(key, step, n, c if by_channel else 0, rate) for c in range(shape[-1])] for n in range(shape[0])]
    return np.broadcast_to(np.array(kept).reshape(shape[0], *[1] * (len(shape) - 2), shape[-1]), shape)

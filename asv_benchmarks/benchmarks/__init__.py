"""Benchmarks of numbacnn for airspeed velocity.

Kernels are compiled in ``setup``, never in a timed part. What a commit does not have yet is skipped: ``setup`` raises
NotImplementedError.
"""

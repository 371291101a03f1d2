"""Benchmarks: the airspeed velocity suite, and comparisons with other libraries."""

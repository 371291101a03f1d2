"""The same work here and in other libraries, timed in turn within one run."""

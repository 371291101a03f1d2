"""Data: the data set protocol, where data sets come from, image files, and the loader that prepares batches."""

"""Anti-aliased downsampling for numbacnn."""

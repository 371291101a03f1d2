"""What is measured and proven where a GPU is at hand."""

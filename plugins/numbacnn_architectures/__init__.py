"""First-party architectures: LeNet-5 and the textbook convolutional network."""

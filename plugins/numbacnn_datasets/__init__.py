"""First-party data sets: digits (embedded), MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100."""

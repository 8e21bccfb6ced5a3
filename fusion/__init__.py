"""Image fusion: pairs, synthetic data, networks, methods, training, metrics."""

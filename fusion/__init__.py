"""Image fusion: pairs, synthetic data, networks, methods, training, metrics."""

import pipeline  # noqa: F401 - before torch is imported, see there

"""Image fusion: pairs, synthetic data, networks, methods, training, metrics."""

import pipeline  # noqa: F401 - must run before torch is imported, see pipeline/__init__.py

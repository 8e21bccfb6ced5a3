"""Shared code to train fusion networks: batches, image similarity for losses, an optimiser, the training loop."""

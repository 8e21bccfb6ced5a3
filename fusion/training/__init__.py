"""What trainings of fusion networks share: batches, comparisons of images for losses, an optimiser."""

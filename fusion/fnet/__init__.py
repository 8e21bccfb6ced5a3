"""FNet: its coding blocks, the fusion network and its inverse, their losses, and how all are computed fast."""

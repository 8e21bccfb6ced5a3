"""A merged LZSC block on a CPU, by Fourier transforms of tiles."""

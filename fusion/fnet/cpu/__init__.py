"""A merged LZSC block on a CPU, by Fourier transforms of tiles.

fourier    transforms of a tile, compiled
kernels    what a step does to tiles, forward and backward, compiled
memory     arrays that are used again
workers    threads
forward    a block; `backward` its gradients
"""

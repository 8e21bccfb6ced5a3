"""A merged coding block on a CPU, computed by Fourier transforms of tiles.

fourier    transforms of a tile, compiled
kernels    a step of a block on tiles, forward and backward, compiled
memory     a pool of buffers
workers    threads
forward    a block
backward   the gradients of a block
"""

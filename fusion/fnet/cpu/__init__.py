"""A merged coding block on a CPU, computed by Fourier transforms of tiles.

fourier    compiled Fourier transforms of a tile
kernels    compiled code for one step of a block, forward and backward, on tiles
memory     a pool of reusable buffers
workers    threads that each run torch on one core
forward    the outputs of a block
backward   the gradients of a block
"""

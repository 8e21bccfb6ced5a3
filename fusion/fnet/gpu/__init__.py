"""A merged coding block on a GPU, computed by 9x1 convolutions of shifted maps.

columns    the outputs and gradients of a block; standard PyTorch operations if Triton cannot compile
kernels    the operations of `columns` as Triton kernels
graphs     CUDA graphs: many small operations are captured once and replayed as one
"""

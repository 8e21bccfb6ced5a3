"""A merged LZSC block on a GPU, by 9x1 convolutions of shifted maps.

columns    a block and its gradients, in plain operations where Triton cannot compile
kernels    the same operations as Triton kernels
graphs     CUDA graphs: many small operations recorded and replayed as one
"""

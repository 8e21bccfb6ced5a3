"""A merged coding block on a GPU, computed by 9x1 convolutions of shifted maps.

columns    a block and its gradients; plain operations if Triton cannot compile
kernels    the same operations as Triton kernels
graphs     CUDA graphs: many small operations captured and replayed as one
"""

"""A merged LZSC block on a GPU, by 9x1 convolutions of shifted maps; CUDA graphs."""

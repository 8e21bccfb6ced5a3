"""FNet: the networks as the paper defines them, their losses, and a faster implementation of both networks.

lzsc, lcsc   sparse-coding blocks: the paper's own (Eqs. 20, 21) and the one of its ablation
network      FNet (Eqs. 22, 23)
inverse      IFNet (Eq. 24)
losses       the losses of training stage I (Eq. 25) and stage II (Eq. 26)
merged       blocks with merged convolutions, computed by standard PyTorch operations; large images in tiles
cpu, gpu     a merged block on a CPU (Fourier transforms of tiles) and on a GPU (9x1 convolutions, Triton kernels)
fast         the fast networks as functions: `prepare` for fusing, `trainable` for training

A module imports only modules above it in this list. Only `fast` imports `cpu` and `gpu`.
"""

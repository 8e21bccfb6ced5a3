"""FNet: the networks as the paper's equations read, their losses, and how they are computed fast.

lzsc, lcsc   coding blocks: the paper's (Eqs. 20, 21) and the ablation's
network      FNet (Eqs. 22, 23)
inverse      IFNet (Eq. 24)
losses       of training stage I (Eq. 25) and stage II (Eq. 26)
merged       the convolutions merged; plain operations; large pictures in tiles
fast         networks as functions of images: `prepare` for fusing, `trainable` for training
cpu, gpu     a merged block on a CPU (Fourier transforms of tiles) and on a GPU (9x1 convolutions, Triton kernels)

Imports go upwards: of `merged` nothing below it, of `cpu` and `gpu` only `fast`.
"""

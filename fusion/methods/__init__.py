"""The fusion methods by name.

A new method takes a module in this package that defines METHOD (a `Method`, which runs it), an entry in METHODS (an
`Entry`, which planning reads), and its name under `fusion.methods` in the configuration. The table does not import the
methods' modules; `find_method` imports one on demand. Code that several methods share is in `fusion.methods.parts`.
"""

from importlib import import_module
from pathlib import Path

from fusion.methods.method import Entry, Fuser, Method, Phase, Precision, Published, Training

METHODS: dict[str, Entry] = {
    "average": Entry("fusion.methods.average", "pixel mean", needs_weights=False, trainable=False),
    "maximum": Entry("fusion.methods.maximum", "pixel maximum", needs_weights=False, trainable=False),
    "laplacian": Entry(
        "fusion.methods.laplacian", "Burt and Adelson 1983; Toet 1989", needs_weights=False, trainable=False
    ),
    "dwt": Entry(
        "fusion.methods.dwt",
        "Li, Manjunath and Mitra 1995",
        needs_weights=False,
        trainable=False,
        packages=["pywavelets"],
    ),
    "guided": Entry("fusion.methods.guided", "Li, Kang and Hu 2013", needs_weights=False, trainable=False),
    "auifnet": Entry("fusion.methods.auifnet", "Zhao et al., IEEE TCSVT 32(3), 2021", revision=2),
    "swinfusion": Entry("fusion.methods.swinfusion", "Ma et al., IEEE/CAA J. Automatica Sinica 9(7), 2022", revision=2),
    "u2fusion": Entry(
        "fusion.methods.u2fusion", "Xu et al., IEEE TPAMI 44(1), 2022", frozen="perceptual_weights", revision=2
    ),
    "coconet": Entry(
        "fusion.methods.coconet",
        "Liu et al., International Journal of Computer Vision 132, 2024",
        frozen="perceptual_weights",
        revision=2,
    ),
    "laph": Entry("fusion.methods.laph", "Luo et al., IEEE TCSVT 33(12), 2023", revision=2, training_revision=2),
    "murf": Entry("fusion.methods.murf", "Xu, Yuan, Ma, IEEE TPAMI 45(10), 2023", training_revision=2),
    "lrrnet": Entry(
        "fusion.methods.lrrnet", "Li et al., IEEE TPAMI 45(9), 2023", frozen="perceptual_weights", revision=2
    ),
    "cddfuse": Entry("fusion.methods.cddfuse", "Zhao et al., CVPR 2023", revision=2),
    "mda": Entry(
        "fusion.methods.mda",
        "Yang et al., Neurocomputing 2024, arXiv 2312.04328",
        frozen="perceptual_weights",
        revision=2,
    ),
    "itfuse": Entry("fusion.methods.itfuse", "Tang, He, Liu, Pattern Recognition 156, 2024", revision=2),
    "crossfuse": Entry("fusion.methods.crossfuse", "Li and Wu, Information Fusion 103, 2024", revision=2),
    "emma": Entry("fusion.methods.emma", "Zhao et al., CVPR 2024", frozen="teacher_weights", revision=2),
    "sage": Entry(
        "fusion.methods.sage",
        "Wu et al., CVPR 2025",
        trainable=False,
        training_takes="masks and features from SAM's ViT-B, and a teacher trained with X-Decoder's segmentation",
    ),
    "gifnet": Entry(
        "fusion.methods.gifnet",
        "Cheng et al., CVPR 2025",
        trainable=False,
        training_takes="DenseNet-121's features, and a near-focus and a far-focus version of each visible image",
    ),
    "mmdrfuse": Entry(
        "fusion.methods.mmdrfuse",
        "Deng et al., ACM Multimedia 2024",
        trainable=False,
        training_takes="VGG-19's features, a teacher, and fixed patches with the best fused image of each so far",
    ),
    "sfdfusion": Entry(
        "fusion.methods.sfdfusion",
        "SFDFusion, ECAI 2024, doi 10.3233/FAIA240524",
        trainable=False,
        training_takes="U2-Net's saliency mask of each infrared image",
    ),
    "fnet": Entry("fusion.methods.fnet", "Panda et al., arXiv 2411.04519", packages=["numba"], revision=3),
}


def find_method(name: str) -> Method:
    """Return a method of the table; its module is imported at the first call."""
    return import_module(METHODS[name].module).METHOD


def packaged_weights(name: str) -> Path | None:
    """Return the path of the weights that this project trained and ships for a method, or None if it ships none."""
    path = Path(__file__).parents[1] / "weights" / f"{name}.safetensors"
    return path if path.is_file() else None


__all__ = [
    "METHODS",
    "Entry",
    "Fuser",
    "Method",
    "Phase",
    "Precision",
    "Published",
    "Training",
    "find_method",
    "packaged_weights",
]

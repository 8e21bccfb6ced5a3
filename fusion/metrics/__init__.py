"""Metrics of image fusion on arrays, in the convention behind the field's tables or another one by name.

    from fusion.metrics import mi, prepare, score, vif
    print(mi(visible, infrared, fused), vif(visible, infrared, fused, convention="means"))
    print(score(prepare(visible, infrared), fused))  # all of METRICS; `prepare` once for all images of a pair

Needs neither torch nor a detector.
"""

from fusion.metrics.comparison import Sources, prepare
from fusion.metrics.conventions import CONVENTIONS, Convention, find_convention
from fusion.metrics.definitions import (
    METRICS,
    REVISION,
    Metric,
    ag,
    cc,
    en,
    mi,
    mse,
    nabf,
    psnr,
    qabf,
    scd,
    score,
    sd,
    sf,
    ssim,
    vif,
)
from fusion.metrics.images import luma

__all__ = [
    "CONVENTIONS",
    "METRICS",
    "REVISION",
    "Convention",
    "Metric",
    "Sources",
    "ag",
    "cc",
    "en",
    "find_convention",
    "luma",
    "mi",
    "mse",
    "nabf",
    "prepare",
    "psnr",
    "qabf",
    "scd",
    "score",
    "sd",
    "sf",
    "ssim",
    "vif",
]

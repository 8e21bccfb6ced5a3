"""Image fusion metrics on arrays, in the convention of the tables in the literature or in another named convention.

    from fusion.metrics import mi, prepare, score, vif
    print(mi(visible, infrared, fused), vif(visible, infrared, fused, convention="means"))
    print(score(prepare(visible, infrared), fused))  # all of METRICS; `prepare` once for all fused images of a pair
    print(score(prepare(visible, infrared), fused, ["QCB", "NCIE"]))  # metrics of EXTRA, by name

Needs neither torch nor a detector.
"""

from fusion.metrics.comparison import Sources, prepare
from fusion.metrics.conventions import CONVENTIONS, Convention, find_convention
from fusion.metrics.definitions import (
    EXTRA,
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
from fusion.metrics.extra import fmi_gradient, fmi_pixel, ncie, qcb, qcv, qp, viff
from fusion.metrics.images import luma

__all__ = [
    "CONVENTIONS",
    "EXTRA",
    "METRICS",
    "REVISION",
    "Convention",
    "Metric",
    "Sources",
    "ag",
    "cc",
    "en",
    "find_convention",
    "fmi_gradient",
    "fmi_pixel",
    "luma",
    "mi",
    "mse",
    "nabf",
    "ncie",
    "prepare",
    "psnr",
    "qabf",
    "qcb",
    "qcv",
    "qp",
    "scd",
    "score",
    "sd",
    "sf",
    "ssim",
    "vif",
    "viff",
]

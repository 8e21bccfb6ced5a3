"""The data sets by name. A new one is a small file like its neighbours and a line in `DATASETS`."""

from detection.datasets.layout import Dataset, Layout
from detection.datasets.m3fd import M3FD
from detection.datasets.msrs import MSRS

DATASETS: dict[str, Dataset] = {
    "m3fd": M3FD,
    "msrs": MSRS,
    "synthetic": M3FD,  # fusion.synthetic writes M3FD's own layout
}

__all__ = ["DATASETS", "Dataset", "Layout"]

"""Conventions by name: papers report different numbers under the same metric name, so each number states its own."""

from dataclasses import asdict, dataclass, replace
from typing import Literal

from pipeline.stage import InputError


@dataclass(frozen=True)
class Convention:
    """Choices that the metrics' definitions leave open; the defaults are those of `reference`."""

    mi_unit: Literal["nats", "bits"] = "nats"
    sources: Literal["sum", "mean"] = "sum"  # of MI, VIF and SSIM over the two sources
    ssim_window: Literal["uniform 7x7", "gaussian 11x11"] = "uniform 7x7"
    ssim_range: float = 2.0  # the data range that scikit-image 0.19 assumed for any float image
    stretch: bool = False  # whether each image is first stretched so that its levels span 0..255

    def describe(self) -> str:
        """Return the convention in one line, for tables and files."""
        return (
            f"MI in {self.mi_unit}; MI, VIF and SSIM: {self.sources} over both sources; "
            f"SSIM: {self.ssim_window} window, data range {self.ssim_range:g}; "
            f"grey levels {'of each image stretched to 0..255' if self.stretch else 'as in the image files'}"
        )


REFERENCE = Convention()

CONVENTIONS = {
    # The convention of the tables of CDDFuse, FNet and many other papers, which score with CDDFuse's evaluator.
    "reference": REFERENCE,
    # The following differ from it in one respect each. MATLAB toolboxes use bits, and the mean of both sources' SSIM.
    "bits": replace(REFERENCE, mi_unit="bits"),
    "means": replace(REFERENCE, sources="mean"),
    # The result of CDDFuse's evaluator with newer versions of scikit-image, which require the data range.
    "range-255": replace(REFERENCE, ssim_range=255.0),
    # SSIM as published, as in VIFB. (VIFB's stretch before MI changes no value, because it keeps all levels distinct.)
    "gaussian": replace(REFERENCE, ssim_window="gaussian 11x11", ssim_range=255.0),
    # Treats all methods alike if some stretch their images before saving.
    "stretch": replace(REFERENCE, stretch=True),
}


def find_convention(name: str) -> Convention:
    """Return the convention called `name`; an InputError lists the known names."""
    if name not in CONVENTIONS:
        raise InputError(f"unknown convention {name!r}; expected one of {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]


def convention_facts(name: str) -> dict[str, object]:
    """Return a convention's choices by field, for digests of settings."""
    return {"name": name, **asdict(find_convention(name))}

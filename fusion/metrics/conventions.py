"""Conventions by name: papers give different numbers under one metric's name, so each number states its convention."""

from dataclasses import asdict, dataclass, replace
from typing import Literal

from pipeline.stage import InputError


@dataclass(frozen=True)
class Convention:
    """What the definitions leave open; the defaults are those of `reference`."""

    mi_unit: Literal["nats", "bits"] = "nats"
    sources: Literal["sum", "mean"] = "sum"  # MI, VIF and SSIM over the two sources
    ssim_window: Literal["uniform 7x7", "gaussian 11x11"] = "uniform 7x7"
    ssim_range: float = 2.0  # the data range that scikit-image 0.19 took for any float image
    stretch: bool = False  # each image first stretched so that its darkest level is 0 and its brightest 255

    def describe(self) -> str:
        """Return the convention in one line, for tables and files."""
        return (
            f"MI in {self.mi_unit}; MI, VIF and SSIM: {self.sources} over both sources; "
            f"SSIM: {self.ssim_window} window, data range {self.ssim_range:g}; "
            f"images {'stretched to 0..255 each' if self.stretch else 'as stored'}"
        )


REFERENCE = Convention()

CONVENTIONS = {
    # Behind the tables of CDDFuse, FNet and the many papers that score with CDDFuse's evaluator.
    "reference": REFERENCE,
    # The same but for one choice each. MATLAB toolboxes take bits, and the mean of both sources' SSIM.
    "bits": replace(REFERENCE, mi_unit="bits"),
    "means": replace(REFERENCE, sources="mean"),
    # What CDDFuse's evaluator gives where the data range that newer scikit-image demands is filled in.
    "range-255": replace(REFERENCE, ssim_range=255.0),
    # SSIM as published; VIFB's. (VIFB's stretch before MI changes no value: it keeps levels apart.)
    "gaussian": replace(REFERENCE, ssim_window="gaussian 11x11", ssim_range=255.0),
    # For methods that stretch what they save, so that all are treated alike.
    "stretch": replace(REFERENCE, stretch=True),
}


def find_convention(name: str) -> Convention:
    """Return the convention called `name`; InputError lists the known ones."""
    if name not in CONVENTIONS:
        raise InputError(f"unknown convention {name!r}; wanted one of {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]


def convention_facts(name: str) -> dict[str, object]:
    """Return a convention's choices by field, for digests of settings."""
    return {"name": name, **asdict(find_convention(name))}

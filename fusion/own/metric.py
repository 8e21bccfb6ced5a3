"""Metrics of the user's own: a Python function of three grey images.

Written as `--own-metric NAME:higher=package.module:function` on the command line, or `NAME:lower=...` where less is
better. The function gets visible, infrared and fused luma, uint8 (H, W) each, and returns a number; NaN says that the
metric is undefined for the images. It is the user's code: it runs because the user names it.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fusion.metrics import METRICS
from fusion.own.method import Own, import_function, source_files
from pipeline.artefacts import sha256_file, sha256_lines
from pipeline.stage import InputError

_FORM = re.compile(r"([A-Za-z]\w*):(higher|lower)=([\w.]+:\w+)")


@dataclass(frozen=True)
class OwnMetric:
    """A metric's name, whether more is better, where its function is, and the function."""

    name: str
    higher_is_better: bool
    target: str
    function: Callable[[np.ndarray, np.ndarray, np.ndarray], float]

    def of(self, visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray) -> float:
        """Return the metric of one fused image; InputError where the function fails or gives no number."""
        try:
            value = float(self.function(visible.copy(), infrared.copy(), fused.copy()))
        except Exception as error:
            raise InputError(
                f"the metric {self.name}, {self.target}, failed: {type(error).__name__}: {error}"
            ) from error
        if math.isinf(value):
            raise InputError(f"the metric {self.name}, {self.target}, gave {value}; wanted a number, or NaN")
        return value

    def describe(self) -> str:
        """Return name, direction, target and the digest of its code, as `directions` reads them again."""
        files = source_files(Own("callable", self.target))
        code = sha256_lines(f"{path.name} {sha256_file(path)}" for path in files)[:12] if files else "unknown"
        return f"{self.name}:{'higher' if self.higher_is_better else 'lower'}={self.target} code {code}"


def read_own_metric(text: str) -> OwnMetric:
    """Read `NAME:higher=package.module:function`; InputError where it is none, or the function cannot be imported."""
    match = _FORM.fullmatch(text)
    if not match:
        raise InputError(f"--own-metric {text}: wanted NAME:higher=package.module:function, or NAME:lower=...")
    name, direction, target = match.groups()
    if name in METRICS or name in ("name", "method", "images"):
        raise InputError(f"--own-metric {text}: {name} is taken; wanted another name")
    return OwnMetric(name, direction == "higher", target, import_function(target))


def directions(described: str) -> dict[str, bool]:
    """Return whether more is better for each metric of a text of `describe`s, joined by `; `."""
    found = (part.partition("=")[0].split(":") for part in described.split("; ") if part)
    return {name: direction == "higher" for name, direction in found}

"""Metrics of the user's own: a Python function of three grey images.

Written as `--own-metric NAME:higher=package.module:function` on the command line, or `NAME:lower=...` if lower values
are better. The function receives visible, infrared and fused luma, uint8 (H, W) each, in this order or by its
parameters' names, and returns a number, NaN if the metric is undefined for the images. It is the user's code and runs
only because the user names it.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusion.metrics import EXTRA, METRICS
from fusion.own.binding import metric_order
from fusion.own.functions import files_digest, import_function, reason
from pipeline.planning.own import OwnMethod, source_files
from pipeline.stage import InputError

_FORM = re.compile(r"([A-Za-z]\w*):(higher|lower)=([\w.]+:\w+)")


@dataclass(frozen=True)
class OwnMetric:
    """A metric of the user's own.

    target: the function as `package.module:name`.
    watch: files and folders that it reads in addition to its code.
    order: the image, 0 visible, 1 infrared, 2 fused, that each of the function's parameters receives.
    """

    name: str
    higher_is_better: bool
    target: str
    function: Callable[[np.ndarray, np.ndarray, np.ndarray], float]
    watch: tuple[Path, ...] = ()
    order: tuple[int, ...] = (0, 1, 2)

    def of(self, visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, pair: str = "a pair") -> float:
        """Return the metric of a pair's fused image; InputError if the function fails or returns no finite number."""
        try:
            images = visible.copy(), infrared.copy(), fused.copy()
            value = self.function(*(images[place] for place in self.order))
            if value is None:
                raise TypeError("it returned nothing")
            value = float(value)
        except MemoryError:
            raise
        except (Exception, SystemExit) as error:
            raise InputError(f"the metric {self.name}, {self.target}, failed on {pair!r}: {reason(error)}") from error
        if math.isinf(value):
            raise InputError(
                f"the metric {self.name}, {self.target}, returned {value} for {pair!r}; expected a finite number or NaN"
            )
        return value

    def describe(self) -> str:
        """Return name, direction, target and the digest of its code in the form that `directions` reads."""
        code = (files_digest(source_files(OwnMethod("callable", self.target, self.watch))) or "unknown")[:12]
        return f"{self.name}:{'higher' if self.higher_is_better else 'lower'}={self.target} code {code}"


def read_own_metric(text: str, watch: Sequence[Path] = ()) -> OwnMetric:
    """Read `NAME:higher=package.module:function`; `watch` are files and folders that it reads in addition to its code.

    Raises:
        InputError: the text has another form, the function cannot be imported, or a watched path is missing.
    """
    match = _FORM.fullmatch(text)
    if not match:
        raise InputError(f"--own-metric {text}: expected NAME:higher=package.module:function, or NAME:lower=...")
    name, direction, target = match.groups()
    if name in (*METRICS, *EXTRA) or name in ("name", "method", "images"):
        raise InputError(f"--own-metric {text}: the name {name} is already in use; expected another name")
    function = import_function(target)
    order = metric_order(function, f"the metric {name}, {target},")
    return OwnMetric(name, direction == "higher", target, function, tuple(watch), tuple(order))


def directions(described: str) -> dict[str, bool]:
    """Return for each metric whether higher is better, from texts of `OwnMetric.describe` joined by `; `."""
    found = (part.partition("=")[0].split(":") for part in described.split("; ") if part)
    return {name: direction == "higher" for name, direction in found}

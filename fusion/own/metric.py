"""Metrics of the user's own: a Python function of three grey images.

Written as `--own-metric NAME:higher=package.module:function` on the command line, or `NAME:lower=...` where less is
better. The function gets visible, infrared and fused luma, uint8 (H, W) each, in this order or as its parameters' names
say, and returns a number; NaN says that the metric is undefined for the images. It is the user's code: it runs because
the user names it.
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
from pipeline.planning.own import Own, source_files
from pipeline.stage import InputError

_FORM = re.compile(r"([A-Za-z]\w*):(higher|lower)=([\w.]+:\w+)")


@dataclass(frozen=True)
class OwnMetric:
    """A metric's name, whether more is better, where its function is, the function, and what else it reads.

    order: which of visible, infrared and fused each of the function's parameters is.
    """

    name: str
    higher_is_better: bool
    target: str
    function: Callable[[np.ndarray, np.ndarray, np.ndarray], float]
    watch: tuple[Path, ...] = ()
    order: tuple[int, ...] = (0, 1, 2)

    def of(self, visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, pair: str = "a pair") -> float:
        """Return the metric of a pair's fused image; InputError where the function fails or gives no number."""
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
                f"the metric {self.name}, {self.target}, gave {value} for {pair!r}; wanted a number, or NaN"
            )
        return value

    def describe(self) -> str:
        """Return name, direction, target and the digest of its code, as `directions` reads them again."""
        code = (files_digest(source_files(Own("callable", self.target, self.watch))) or "unknown")[:12]
        return f"{self.name}:{'higher' if self.higher_is_better else 'lower'}={self.target} code {code}"


def read_own_metric(text: str, watch: Sequence[Path] = ()) -> OwnMetric:
    """Read `NAME:higher=package.module:function`; `watch` are files and folders that it reads besides its code.

    Raises:
        InputError: it is written otherwise, the function cannot be imported, or something watched is missing.
    """
    match = _FORM.fullmatch(text)
    if not match:
        raise InputError(f"--own-metric {text}: wanted NAME:higher=package.module:function, or NAME:lower=...")
    name, direction, target = match.groups()
    if name in (*METRICS, *EXTRA) or name in ("name", "method", "images"):
        raise InputError(f"--own-metric {text}: {name} is taken; wanted another name")
    function = import_function(target)
    order = metric_order(function, f"the metric {name}, {target},")
    return OwnMetric(name, direction == "higher", target, function, tuple(watch), tuple(order))


def directions(described: str) -> dict[str, bool]:
    """Return whether more is better for each metric of a text of `describe`s, joined by `; `."""
    found = (part.partition("=")[0].split(":") for part in described.split("; ") if part)
    return {name: direction == "higher" for name, direction in found}

"""Binding the bands and the fused image to the inputs and outputs of a user's own method, by their names.

Ambiguous names are an error, because swapped bands or another output than the fused image give images that look right.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.stage import InputError

VISIBLE = frozenset(
    "visible visual vis vi viz v vs vl rgb color colour optical optic daylight eo".split()  # noqa: SIM905
)
INFRARED = frozenset(
    "infrared infra inf ir thermal therm heat tir lwir mwir swir nir fir flir".split()  # noqa: SIM905
)
FUSED = frozenset("fused fusion fuse fus".split())  # noqa: SIM905
BANDS = ("visible", "infrared")


@dataclass(frozen=True)
class Binding:
    """The inputs that receive the two bands.

    visible, infrared: names of the inputs.
    how: how the inputs were identified, for messages.
    keywords: whether the bands are passed by name.
    visible_first: whether visible is passed before infrared when they are passed by position.
    """

    visible: str
    infrared: str
    how: str
    keywords: bool = False
    visible_first: bool = True

    def call(self, function: Callable[..., Any], visible: Any, infrared: Any) -> Any:
        """Return the function's result for the two bands."""
        if self.keywords:
            return function(**{self.visible: visible, self.infrared: infrared})
        return function(visible, infrared) if self.visible_first else function(infrared, visible)

    def __str__(self) -> str:
        return f"visible to {self.visible}, infrared to {self.infrared}, {self.how}"


IN_ORDER = Binding("the first input", "the second input", "by order, as the inputs have no names")


def words_of(name: str) -> set[str]:
    """Return the words of a name in lower case: `visible` and `image` for `visibleImage_1`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    words = set(re.findall(r"[a-z]+", spaced.lower()))
    # Also without "image" and the like at the start or end, as in `imgvis` and `irimage`.
    return words | {re.sub(r"^(?:input|image|img|in|x)|(?:input|image|img|in|x)$", "", word) for word in words}


def band_of(name: str) -> str | None:
    """Return `visible` or `infrared` if a name indicates this band, None if it indicates neither or both."""
    words = words_of(name)
    visible, infrared = bool(words & VISIBLE), bool(words & INFRARED)
    return None if visible == infrared else BANDS[infrared]


def bind(names: Sequence[str], label: str, optional: Sequence[str] = (), by_name: Sequence[str] = ()) -> Binding:
    """Return the binding of the two bands to a method's inputs.

    Args:
        names: all inputs, in order.
        label: the method's name in error messages.
        optional: inputs with a default.
        by_name: inputs that can be passed only by name.

    Raises:
        InputError: the number of required inputs is not two, or their names do not identify the bands.
    """
    required = [name for name in names if name not in optional]
    for candidates in (required, names):
        bands = [[name for name in candidates if band_of(name) == band] for band in BANDS]
        if len(bands[0]) == 1 == len(bands[1]):
            visible, infrared = bands[0][0], bands[1][0]
            break
    else:
        visible = infrared = None
    others = set(required) - {visible, infrared}
    if len(names) < 2 or (others and (visible is not None or len(required) != 2)):
        raise InputError(
            f"{label} takes {len(required)} inputs ({', '.join(required) or 'none'}); expected two, visible and "
            "infrared, and a default for every other"
        )
    how = "by their names"
    if visible is None:
        if len(required) != 2:
            raise InputError(
                f"{label} has inputs whose names ({', '.join(names)}) do not identify the two bands; expected inputs "
                "called visible and infrared"
            )
        found = [band_of(name) for name in required]
        if found[0] is not None and found[0] == found[1]:
            raise InputError(
                f"{label} has two inputs that are named after one band ({', '.join(required)} are both {found[0]}); "
                "expected one called visible and one called infrared"
            )
        if found == [None, None] and any(words_of(name) & (VISIBLE | INFRARED) for name in required):
            raise InputError(
                f"{label} has inputs with ambiguous names, {', '.join(required)}; expected one called visible and one "
                "called infrared"
            )
        swapped = found[0] == "infrared" or found[1] == "visible"
        visible, infrared = reversed(required) if swapped else required
        how = "by order, as no name indicates a band" if found == [None, None] else "by the name of one of them"
    leading = list(names[:2])
    keywords = bool({visible, infrared} & set(by_name)) or {visible, infrared} != set(leading)
    return Binding(visible, infrared, how, keywords, leading[0] == visible)


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """Return a function's parameters, None if Python cannot determine them, as for some compiled functions."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None


def names_both_bands(function: Callable[..., Any]) -> bool:
    """Return whether a function's parameters name both bands; it then fuses, even if all of them have defaults."""
    found = {band_of(parameter.name) for parameter in parameters_of(function) or ()}
    return set(BANDS) <= found


def bind_function(function: Callable[..., Any], label: str) -> Binding:
    """Return the binding of the two bands to a function's parameters.

    The bands are bound by order if the function takes only *args or Python cannot determine its parameters.

    Raises:
        InputError: as for `bind`, or a band's parameter cannot be passed by name although it has to be.
    """
    parameters = parameters_of(function)
    if parameters is None:
        return IN_ORDER
    named = [one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    if any(one.kind == one.VAR_POSITIONAL for one in parameters) and not named:
        return IN_ORDER
    nameless = [one.name for one in named if one.kind == one.POSITIONAL_ONLY]
    binding = bind(
        [one.name for one in named],
        label,
        [one.name for one in named if one.default is not one.empty],
        [one.name for one in named if one.kind == one.KEYWORD_ONLY],
    )
    if binding.keywords and {binding.visible, binding.infrared} & set(nameless):
        raise InputError(
            f"{label} takes {', '.join(nameless)} only by position; expected visible and infrared as the first two "
            "parameters"
        )
    return binding


def metric_order(function: Callable[..., Any], label: str) -> list[int]:
    """Return the image, 0 visible, 1 infrared, 2 fused, that each of a metric's parameters receives, by their names.

    The order is visible, infrared, fused if the names do not identify the images or Python cannot determine them.

    Raises:
        InputError: the names identify some of the images, but not all three, and contradict this order.
    """
    required = [one.name for one in parameters_of(function) or () if one.default is one.empty and one.kind < 2]
    fits = [[place for place, words in enumerate((VISIBLE, INFRARED, FUSED)) if words_of(n) & words] for n in required]
    found = [places[0] if len(places) == 1 else None for places in fits]
    if sorted(map(str, found)) == ["0", "1", "2"]:
        return [place for place in found if place is not None]
    if any(place not in (None, number) for number, place in enumerate(found)):
        raise InputError(
            f"{label} has parameters whose names ({', '.join(required)}) contradict their order; expected visible, "
            "infrared, fused"
        )
    return [0, 1, 2]


def fused_of(outputs: Any, label: str, names: Sequence[str] | None = None) -> Any:
    """Return the fused image from a method's outputs: the only output, or the one that is called fused.

    `names` are the names of a list of outputs; a mapping and a named tuple have their own.

    Raises:
        InputError: there are several outputs, and none or several of them are called fused.
    """
    if isinstance(outputs, Mapping):
        names, outputs = list(map(str, outputs)), list(outputs.values())
    if not isinstance(outputs, (list, tuple)):
        return outputs
    names = names or getattr(outputs, "_fields", None) or [str(number) for number in range(len(outputs))]
    called = [place for place, name in enumerate(names) if words_of(name) & FUSED]
    if len(outputs) != 1 and len(called) != 1:
        raise InputError(
            f"{label} returns {len(outputs)} outputs ({', '.join(names)}); expected one, or one of them called fused"
        )
    return fused_of(outputs[0 if len(outputs) == 1 else called[0]], label)


def one_channel(shape: Sequence[int], label: str) -> None:
    """Raise InputError unless the shape of a network's output is (1, 1, H, W), (1, H, W) or (H, W)."""
    if len(shape) < 2 or any(size != 1 for size in shape[:-2]):
        raise InputError(
            f"{label} returned an output of shape {tuple(shape)}; expected (1, 1, H, W), the fused luma in one channel"
        )
